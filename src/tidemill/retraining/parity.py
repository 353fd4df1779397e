"""Parity of everything a service served: the prediction log against the offline path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from tidemill.core.definitions import Service
from tidemill.features import verify
from tidemill.features.ports import ParityReport
from tidemill.ledger import schema
from tidemill.ledger.store import emit, to_json, upsert
from tidemill.retraining.ports import Loop

Progress = Callable[[int, int, str], None]


def verify_served(
    loop: Loop,
    service: Service,
    *,
    from_us: int = 0,
    until_us: int | None = None,
    progress: Progress = lambda _done, _of, _what: None,
) -> ParityReport:
    """Recompute what was served in [from_us, until_us) offline, each row at its own time, and keep the report in the ledger.

    Raises:
        NotFoundError: a table that the service's features read has never been published.
    """
    scans = {table: loop.tables.scan(table) for table in {service.spine.name, *(view.table.name for view in service.views)}}
    total = len(loop.log.scores(service.name, from_us=from_us, until_us=until_us)["id"])
    served = loop.log.read(service.name, from_us=from_us, until_us=until_us, roles=("live", "canary"))
    report = verify(service, served, loop.offline, scans, mask=loop.mask, progress=lambda rows: progress(min(rows, total), total, "rows"))
    now = loop.clock.now_us()
    with loop.ledger.write() as db:
        body = asdict(report) | {"from_us": from_us, "until_us": until_us, "at_us": now}
        upsert(db, schema.state, {"name": f"parity:{service.name}", "value": to_json(body), "at_us": now})
        counts = {"rows": report.rows, "values": report.values, "differences": report.differences, "degraded": report.degraded}
        emit(db, "features.verified", service.name, counts, at_us=now, actor=loop.actor)
    return report

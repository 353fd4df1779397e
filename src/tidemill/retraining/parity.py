"""Parity of what a service served: the prediction log against the offline path, on demand and, for a sample, all the time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Any

from tidemill import features
from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.core.meaning import view_digest, view_from
from tidemill.features import verify
from tidemill.features.ports import Difference, ParityReport
from tidemill.ledger import schema
from tidemill.ledger.store import emit, fact, to_json, upsert
from tidemill.monitoring.ports import Observation
from tidemill.retraining.alerts import tell
from tidemill.retraining.ports import Loop
from tidemill.serving.pins import with_views
from tidemill.serving.ports import Prediction

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
OBJECTIVE = "parity"
"""Share of the sampled values that the offline path does not confirm."""
_EXAMPLES = 12


def verify_served(
    loop: Loop,
    service: Service,
    *,
    from_us: int = 0,
    until_us: int | None = None,
    share: float = 1.0,
    progress: Progress = lambda _done, _of, _what: None,
) -> ParityReport:
    """Recompute what was served in [from_us, until_us) offline, each row at its own time, and keep the report in the ledger.

    Rows are recomputed with the versions of feature views that their model was pinned to. `share`: of the rows, chosen by their ids.

    Raises:
        InvalidError: `share` is not above 0 and at most 1.
        NotFoundError: a table that the service's features read has never been published.
    """
    if not 0 < share <= 1:
        raise InvalidError(f"share is {share}; it must be above 0 and at most 1, for example 0.01 for one row of a hundred")
    report = _verify(loop, service, from_us, until_us, share, progress)
    now = loop.clock.now_us()
    with loop.ledger.write() as db:
        body = asdict(report) | {"from_us": from_us, "until_us": until_us, "at_us": now, "share": share}
        upsert(db, schema.state, {"name": f"parity:{service.name}", "value": to_json(body), "at_us": now})
        counts = {"rows": report.rows, "values": report.values, "differences": report.differences, "degraded": report.degraded}
        emit(db, "features.verified", service.name, counts, at_us=now, actor=loop.actor)
    return report


def _verify(loop: Loop, service: Service, from_us: int, until_us: int | None, share: float, progress: Progress) -> ParityReport:
    scores = loop.log.scores(service.name, from_us=from_us, until_us=until_us)
    total = len(scores["id"])
    versions = sorted({int(v) for v in scores["version"].tolist()})
    reports, done = list[ParityReport](), 0
    for as_served, mine, lacking in _pinned(loop, service, versions):

        def chosen(mine: frozenset[int] = mine) -> Iterator[Prediction]:
            found = loop.log.read(service.name, from_us=from_us, until_us=until_us, roles=("live", "canary"))
            return (p for p in found if p.version in mine and sampled(p.id, share))

        scans = {t: loop.tables.scan(t) for t in {as_served.spine.name, *(view.table.name for view in as_served.views)}}
        before = done
        reports.append(
            verify(
                as_served,
                chosen(),
                loop.offline,
                scans,
                mask=loop.mask,
                progress=lambda rows, before=before: progress(min(before + rows, total), total, "rows"),  # type: ignore[misc]
            )
        )
        done += reports[-1].rows
        reasons = dict.fromkeys(lacking, "the version that its model was pinned to is not in the ledger")
        reports[-1] = replace(reports[-1], excluded={**reports[-1].excluded, **reasons})
    return _merged(service.name, reports)


def pinned_service(loop: Loop, service: Service, version: int) -> Service:
    """The service as a model version is answered: with the versions of feature views that it was trained on."""
    return _pinned(loop, service, [version])[0][0]


def _pinned(loop: Loop, service: Service, versions: list[int]) -> list[tuple[Service, frozenset[int], tuple[str, ...]]]:
    """The service as each model version was answered, the model versions of each, and the views whose version is not known any more."""
    with loop.ledger.read() as db:
        known = {v.digest: view_from(v.body) for v in features.versions(db)}
    known |= {view_digest(view): view for view in service.views}
    defined = {view_digest(view) for view in service.views}
    groups: dict[tuple[str, ...], tuple[Service, set[int], tuple[str, ...]]] = {}
    for version in versions:
        try:
            meta = loop.registry.get(service.name, version).meta
        except NotFoundError:
            meta = {}
        pins = features.pinned(meta)
        key: tuple[str, ...] = () if defined.issuperset(pins.values()) else tuple(sorted(pins.values()))
        if key not in groups:
            views = [known[d] for d in pins.values() if d in known]
            as_served = with_views(service, views, meta.get("signature", {}).get("inputs", ())) if key else service
            groups[key] = (as_served, set(), tuple(name for name, d in pins.items() if d not in known))
        groups[key][1].add(version)
    return [(as_served, frozenset(mine), lacking) for as_served, mine, lacking in groups.values()]


def _merged(service: str, reports: list[ParityReport]) -> ParityReport:
    by_column: Counter[str] = Counter()
    examples: list[Difference] = []
    for report in reports:
        by_column.update(report.by_column)
        examples += report.examples
    excluded = {name: reason for report in reports for name, reason in report.excluded.items()}
    rows, values = sum(r.rows for r in reports), sum(r.values for r in reports)
    return ParityReport(service, rows, values, sum(by_column.values()), tuple(examples), dict(by_column), excluded)


def sampled(prediction_id: str, share: float) -> bool:
    """Whether a prediction is in the sample: the same for the same id, whoever asks, so a sample taken again is the same one."""
    return share >= 1 or int.from_bytes(blake2b(prediction_id.encode(), digest_size=8).digest(), "big") < share * 2**64


def check_sample(loop: Loop, service: Service) -> ParityReport | None:
    """Verify a sample of what was served since the last time; None when it is not time yet or nothing was served.

    The outcome is an observation of the objective `parity`. A column that begins to differ, or for another cause than before, is an event
    `features.parity`, and an alert where alerts go somewhere. Idempotent: killed before it is noted, the same rows are looked at again.
    """
    sampling, now, name = loop.parity, loop.clock.now_us(), f"parity-sample:{service.name}"
    with loop.ledger.read() as db:
        before = fact(db, name) or {}
    from_us = int(before.get("until_us", max(0, now - DAY_US)))
    if not sampling.share or now - from_us < sampling.every_us:
        return None
    try:
        report = _verify(loop, service, from_us, now, sampling.share, lambda _done, _of, _what: None)
    except NotFoundError:  # nothing is published yet, so nothing can have been looked up
        return None
    seen = sorted({f"{e.column}: {e.likely.partition(':')[0]}" for e in report.examples})
    with loop.ledger.write() as db:
        upsert(db, schema.state, {"name": name, "value": to_json({"until_us": now, "seen": seen}), "at_us": now})
        if report.rows:
            body = asdict(report) | {"from_us": from_us, "until_us": now, "at_us": now, "share": sampling.share}
            upsert(db, schema.state, {"name": f"parity:{service.name}", "value": to_json(body), "at_us": now})
        if new := [s for s in seen if s not in before.get("seen", ())]:
            emit(db, "features.parity", service.name, _told(report, new), at_us=now, actor=loop.actor)
    if report.rows:
        loop.metrics.write([_observation(service.name, report, from_us, now)], at_us=now)
    if new:
        _alert(loop, service, report, new)
    return report


def _told(report: ParityReport, new: list[str]) -> dict[str, Any]:
    examples = [asdict(e) for e in report.examples[:_EXAMPLES]]
    return {"rows": report.rows, "differences": report.differences, "by_column": dict(report.by_column), "new": new, "examples": examples}


def _observation(service: str, report: ParityReport, from_us: int, until_us: int) -> Observation:
    causes = Counter(e.likely.partition(":")[0] for e in report.examples)
    body = {"by_column": {c: n for c, n in report.by_column.items() if n}, "causes": dict(causes), "differences": report.differences}
    value = report.differences / report.values if report.values else None
    return Observation(service, 0, OBJECTIVE, from_us, until_us, value, None, None, report.values, report.values, body)


def _alert(loop: Loop, service: Service, report: ParityReport, new: list[str]) -> None:
    text = f"{service.name}: {report.differences:,} of {report.values:,} sampled values are not what offline says ({'; '.join(new)})"
    logger.warning("features.parity", extra={"service": service.name, "differences": report.differences, "new": new})
    tell(loop, f"features.parity:{service.name}", {"text": text, "at": format_instant(loop.clock.now_us()), **_told(report, new)})

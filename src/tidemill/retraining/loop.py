"""One turn of the loop: ingest, learn labels and schemas, keep features fresh, monitor, reconcile, maintain.

Every function here is level-triggered: it looks at what is in the ledger and does what is missing, so a turn that was
killed is simply taken again.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import sqlalchemy as sa

from tidemill import ingestion, monitoring, validation
from tidemill.core import digests, ids
from tidemill.core.definitions import Label, Service, Table
from tidemill.core.errors import NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.core.privacy import HIDDEN
from tidemill.ingestion import IngestReport
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, fact, to_json, upsert
from tidemill.retraining import reconcile as reconciliation
from tidemill.retraining import skew, triggers
from tidemill.retraining.features import feed
from tidemill.retraining.parity import check_sample
from tidemill.retraining.ports import Cause, Loop
from tidemill.serving import table_of
from tidemill.serving.archive import archive
from tidemill.validation.ports import Anomaly, Audit, Profiler, SchemaStore

FIRST_MONTH_US = 30 * DAY_US
FOREVER_US = 2**62
KEEP_SNAPSHOTS_US = 14 * DAY_US
REMEMBERED = 10_000
ARCHIVE_TURNS = 30
"""Turns that archived something, after which the table is compacted."""


@dataclass(slots=True)
class Auditor:
    """Checks rows against their table's schema; a table without one passes. Answers for equal rows are remembered, the last `REMEMBERED` of them.

    `personal` names columns, by table, of which an anomaly must not repeat what was observed.
    """

    schemas: SchemaStore
    profiler: Profiler
    personal: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _known: dict[str, tuple[tuple[Anomaly, ...], bytes]] = field(default_factory=dict)

    def __call__(self, table: str, rows: pa.Table) -> Audit:
        """The anomalies of `rows`, and their profile."""
        rules = self.schemas.find(table)
        if rules is None:
            return Audit(())
        key = digests.of_json([table, repr(rules), _fingerprint(rows)])
        if key in self._known:
            anomalies, packed = self._known[key]
            return Audit(anomalies, self.profiler.load(zlib.decompress(packed)))
        found = validation.check(rows, rules, self.profiler)
        hidden = self.personal.get(table, frozenset())
        anomalies = tuple(replace(a, observed=HIDDEN) if a.column in hidden else a for a in found.anomalies)
        if found.profile is not None:
            self._known[key] = anomalies, zlib.compress(found.profile.to_bytes(), 1)  # a profile takes ten times as much
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return replace(found, anomalies=anomalies)


def _fingerprint(rows: pa.Table) -> str:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return digests.of_bytes(sink.getvalue())


def tick(loop: Loop, from_us: int) -> None:
    """A whole turn in the present: what came since, up to the clock's now."""
    reports = ingest(loop)
    if not loop.followed():
        feed(loop)
    learn_labels(loop, reports)
    learn_schemas(loop)
    for service in loop.definitions.services.values():
        monitor(loop, service, from_us, loop.clock.now_us())
        check_sample(loop, service)
        skew.check(loop, service)
        reconcile(loop, service)
    maintain(loop, every=30)
    keep_predictions(loop)


def ingest(loop: Loop) -> list[IngestReport]:
    """Take in every batch that has come: branch, audit, publish or reject."""
    reports: list[IngestReport] = []
    for name, source in loop.sources.items():
        table = loop.definitions.tables[name]
        reports += ingestion.ingest(table, source, tables=loop.tables, audit=loop.audit, ledger=loop.ledger, clock=loop.clock)
    return reports


def learn_labels(loop: Loop, reports: Sequence[IngestReport]) -> None:
    """Derive labels from the rows published since the last time."""
    for label in loop.definitions.labels.values():
        for rows in _published_since(loop, f"labels:{label.name}", label.table, reports):
            write_labels(loop, label, rows)
        _mark(loop, f"labels:{label.name}", label.table)


def write_labels(loop: Loop, label: Label, rows: pa.Table) -> int:
    """State the labels that `rows` of the label's table imply; return how many were new."""
    return monitoring.sync_labels(label, rows, loop.labels)


def learn_schemas(loop: Loop) -> None:
    """Infer the schema of each table that has a month of published rows and no schema yet; people curate it from there."""
    for name, table in loop.definitions.tables.items():
        if name in loop.sources and loop.schemas.find(name) is None and (rows := _read(loop, table)) is not None:
            infer_schema(loop, table, rows)


def learn_from_sources(loop: Loop) -> None:
    """The same from what the sources hold, for a project whose history is about to be replayed: the audit judges it from the start."""
    for name, source in loop.sources.items():
        if loop.schemas.find(name) is not None:
            continue
        table, taken = loop.definitions.tables[name], []
        for batch in source.read(after=None, until_us=FOREVER_US):
            taken.append(batch.rows)
            if batch.available_us - FIRST_MONTH_US > _known(table, taken[0])[0]:
                break
        if taken:
            infer_schema(loop, table, pa.concat_tables(taken, promote_options="default"))


def infer_schema(loop: Loop, table: Table, rows: pa.Table) -> None:
    """Infer a schema from the first month of `rows` and save it; less than a month is not enough to judge by."""
    first, last = _known(table, rows)
    if last - first < FIRST_MONTH_US - DAY_US:
        return
    month = rows.filter(pc.less(pc.cast(rows.column(table.known_time), pa.int64()), first + FIRST_MONTH_US))
    inferred = validation.infer(table.name, month, unique=table.keys)
    with loop.ledger.write() as db:  # before the schema is there: whoever is killed in between does both again
        emit(db, "schema.inferred", table.name, {"rows": month.num_rows}, at_us=loop.clock.now_us(), actor=loop.actor)
    loop.schemas.save(inferred)


def _known(table: Table, rows: pa.Table) -> tuple[int, int]:
    """The first and the last known time of rows."""
    span = pc.min_max(pc.cast(pc.cast(rows.column(table.known_time), pa.timestamp("us", tz="UTC")), pa.int64())).as_py()
    return int(span["min"]), int(span["max"])


def monitor(loop: Loop, service: Service, from_us: int, until_us: int) -> None:
    """Profile what was served, and state quality and drift with their intervals."""
    monitoring.observe(
        service, from_us=from_us, until_us=until_us, ledger=loop.ledger, log=loop.log, labels=loop.labels, profiler=loop.profiler,
        registry=loop.registry, blobs=loop.blobs, metrics=loop.metrics, now_us=loop.clock.now_us(),
    )  # fmt: skip


def reconcile(loop: Loop, service: Service) -> list[Any]:
    """Bring what is deployed to what is desired, until there is nothing left to do."""
    return list(reconciliation.reconcile(loop, service, loop.clock.now_us()))


def launch(loop: Loop, cause: Cause) -> None:
    """Run the service's pipeline for a cause, here and now, on what was known before it.

    One training of a service at a time: while another process has one under way, nothing is done, and the next turn looks again.
    """
    service = loop.definitions.service(cause.service)
    with loop.alone(service.name) as mine:
        if mine:
            # rows known at the very instant of a cause may still be on their way; a person has said how far to look
            until = cause.evidence["until_us"] if cause.kind == "manual" else cause.at_us - 1
            graph = service.pipeline.graph(until=until)
            loop.executor.run(graph, run_id=cause.run_id or ids.derive("run", cause.id), cause_id=cause.id, service=service.name)


def leave(_loop: Loop, _cause: Cause) -> None:
    """Leave the run of a cause to `train_open` in another process, for which the cause in the ledger is all it takes."""


def train_open(loop: Loop) -> int:
    """Run what was left: every open cause, oldest first; say how many were tried. One whose process was killed goes on behind its finished steps."""
    tried = 0
    for name, service in loop.definitions.services.items():
        if service.pipeline is not None:
            waiting = [past.cause for past in triggers.causes(loop, name) if past.open]
            for cause in reversed(waiting):
                loop.launch(loop, cause)
            tried += len(waiting)
    return tried


def maintain(loop: Loop, *, every: int, before: Callable[[], None] = lambda: None) -> None:
    """Compact and expire each table after `every` batches; `before` is called when there is something to do."""
    for name in loop.sources:
        count = _count(loop.ledger, name)
        done = _state(loop.ledger, f"maintained:{name}").get("batches", 0)
        if count - done >= every:
            before()
            loop.tables.maintain(name, now_us=loop.clock.now_us(), keep_us=KEEP_SNAPSHOTS_US)
            _save(loop, f"maintained:{name}", {"batches": count})


def keep_predictions(loop: Loop) -> int:
    """Move predictions that are old enough into their tables, and forget those that are too old; return how many were moved."""
    now, moved = loop.clock.now_us(), 0
    for name in loop.definitions.services:
        rows = archive(loop.log, loop.tables, name, until_us=now - loop.keeping.hot_us)
        moved += rows
        done = _state(loop.ledger, f"archived:{name}")
        turns, forgot = int(done.get("turns", 0)) + bool(rows), int(done.get("forgot_us", 0))
        before = now - loop.keeping.keep_us if loop.keeping.keep_us and now - forgot >= DAY_US else 0
        if before:
            loop.log.drop(name, before_us=before)
        if before or turns >= ARCHIVE_TURNS:
            _maintain_archive(loop, name, before)
            turns, forgot = 0, now if before else forgot
        if rows or before:
            _save(loop, f"archived:{name}", {"turns": turns, "forgot_us": forgot})
    return moved


def _maintain_archive(loop: Loop, service: str, before_us: int) -> None:
    forget = ("at", before_us) if before_us else None
    with suppress(NotFoundError):  # nothing was archived yet
        loop.tables.maintain(table_of(service), now_us=loop.clock.now_us(), keep_us=KEEP_SNAPSHOTS_US, forget=forget)


def _published_since(loop: Loop, marker: str, table: Table, reports: Sequence[IngestReport]) -> list[pa.Table]:
    fresh = [r.published for r in reports if r.table == table.name and r.published is not None]
    done = _state(loop.ledger, marker).get("batches", 0)
    missing = _count(loop.ledger, table.name) - done
    if missing == len(fresh):
        return fresh
    rows = _read(loop, table)
    return [] if rows is None else [rows]


def _mark(loop: Loop, marker: str, table: Table) -> None:
    count = _count(loop.ledger, table.name)
    if _state(loop.ledger, marker).get("batches", 0) != count:
        _save(loop, marker, {"batches": count})


def _read(loop: Loop, table: Table) -> pa.Table | None:
    try:
        scan = loop.tables.scan(table.name)
    except LookupError:
        return None
    return ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table() if scan.paths else None


def _count(ledger: Ledger, table: str) -> int:
    batch = schema.batch
    with ledger.read() as db:
        return int(db.execute(sa.select(sa.func.count()).where(batch.c.table_name == table, batch.c.status == "published")).scalar_one())


def _state(ledger: Ledger, name: str) -> dict[str, Any]:
    with ledger.read() as db:
        found = fact(db, name)
    return dict(found) if found else {}


def _save(loop: Loop, name: str, value: Mapping[str, Any]) -> None:
    with loop.ledger.write(durable=False) as db:
        upsert(db, schema.state, {"name": name, "value": to_json(value), "at_us": loop.clock.now_us()})


Launch = Callable[[Loop, Cause], None]

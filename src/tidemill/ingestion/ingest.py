"""Write, audit, publish: how rows get into a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.clock import Clock
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, NotFoundError, not_found
from tidemill.ingestion import quarantine
from tidemill.ingestion.conform import conform, structure
from tidemill.ingestion.ports import Batch, Source, UnreadableError
from tidemill.ledger import schema as t
from tidemill.ledger.store import Ledger, emit, from_json, insert_once, to_json, upsert
from tidemill.validation.ports import Anomaly, Audit, Profile
from tidemill.versioning.ports import TableStore

logger = logging.getLogger(__name__)

Auditing = Callable[[str, pa.Table], Audit]

_SCHEMAS: WeakKeyDictionary[TableStore, dict[str, pa.Schema]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of one batch. `published` has the rows as the table has them, None when they were rejected."""

    batch_id: str
    table: str
    status: str
    rows: int
    anomalies: tuple[Anomaly, ...]
    snapshot_id: int | None
    origin: str
    published: pa.Table | None
    available_us: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """What one call of `ingest` works with."""

    table: Table
    tables: TableStore
    audit: Auditing
    ledger: Ledger
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is to be recorded of a batch. `columns` names rejected rows' columns, each with its stored name."""

    batch: Batch
    rows: pa.Table
    anomalies: tuple[Anomaly, ...]
    profile: Profile | None = None
    snapshot_id: int | None = None
    branch: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def status(self) -> str:
        return "rejected" if self.anomalies else "published"


def ingest(
    table: Table,
    source: Source,
    *,
    tables: TableStore,
    audit: Auditing,
    ledger: Ledger,
    clock: Clock,
    until_us: int | None = None,
) -> list[IngestReport]:
    """Take in every batch that had come by `until_us` (default: now) and is not in the ledger yet.

    Each batch is written to the branch `audit-<batch>`, audited, and then either published, which moves main in one step, or
    rejected: main stays, the branch stays where the rows fit the table, and the rows can be had by `rejected`. A batch that would
    change the table's columns is audited before anything is written. One transaction of the ledger ends each batch (batch,
    decision, profile, cursor, event), and every step before it can be done again without effect, so whoever is killed anywhere
    and starts again ends in the same state. Raises `UnavailableError` when a system is away; calling again is safe.
    """
    work = _Work(table, tables, audit, ledger, clock)
    now = clock.now_us() if until_us is None else until_us
    reports = []
    for batch, unreadable in _arriving(work, source, now):
        started = perf_counter()
        outcome = _unreadable(batch, unreadable) if unreadable else _take(work, batch)
        _record(work, outcome, perf_counter() - started)
        logger.info(f"batch.{outcome.status}", extra={"table": table.name, "batch": batch.id, "rows": outcome.rows.num_rows})
        published = None if outcome.anomalies else outcome.rows
        n, snapshot, origin = outcome.rows.num_rows, outcome.snapshot_id, batch.origin
        reports.append(
            IngestReport(batch.id, table.name, outcome.status, n, outcome.anomalies, snapshot, origin, published, batch.available_us)
        )
    return reports


def rejected(table: str, batch_id: str, *, tables: TableStore, ledger: Ledger) -> pa.Table:
    """The rows of a rejected batch as they came (a batch that could not be read has none). Raises `NotFoundError`."""
    with ledger.read() as db:
        known = {row.id for row in db.execute(sa.select(t.batch.c.id).where(t.batch.c.table_name == table, t.batch.c.status == "rejected"))}
        evidence = db.execute(sa.select(t.decision.c.evidence).where(t.decision.c.id == _decision_id(batch_id))).scalar()
    if batch_id not in known or evidence is None:
        raise not_found(f"rejected batch of {table!r}", batch_id, known)
    columns = from_json(evidence)["columns"]
    return quarantine.find(table, batch_id, columns, tables) if columns else pa.table({})


def _arriving(work: _Work, source: Source, until_us: int) -> Iterator[tuple[Batch, UnreadableError | None]]:
    """Batches that the ledger does not know; the cursor is kept when known ones were passed over."""
    kept = cursor = _cursor(work)
    while True:
        try:
            for batch in source.read(after=cursor, until_us=until_us):
                if not _known(work.ledger, batch.id):
                    yield batch, None
                    kept = batch.cursor
                cursor = batch.cursor
            break
        except UnreadableError as broken:
            if broken.cursor == cursor:
                raise InvalidError(f"the source of {work.table.name!r} cannot go on behind {broken.origin}: {broken}") from broken
            if not _known(work.ledger, broken.id):
                yield Batch(broken.id, pa.table({}), broken.cursor, broken.available_us, broken.origin), broken
                kept = broken.cursor
            cursor = broken.cursor
    if cursor is not None and cursor != kept:
        with work.ledger.write() as db:
            _keep_cursor(db, work, cursor)


def _unreadable(batch: Batch, broken: UnreadableError) -> _Outcome:
    return _Outcome(batch, batch.rows, (Anomaly("*", "rows", "rows that can be read", str(broken)),))


def _take(work: _Work, batch: Batch) -> _Outcome:
    """Write, audit, publish or set aside; everything but the record."""
    name, branch, tables = work.table.name, f"audit-{batch.id}", work.tables
    schema = _schema(tables, name)
    rows, misfits = conform(batch.rows, schema)
    seen = rows.select([column for column in rows.column_names if column in batch.rows.column_names])
    wrong = (*structure(work.table, seen), *misfits)
    ahead = not wrong and len(schema) > 0 and set(seen.column_names) <= set(schema.names)
    if ahead:
        tables.append(name, rows, batch=batch.id, branch=branch)
    audit = work.audit(name, seen)
    if anomalies := _once((*wrong, *audit.anomalies)):
        columns = tuple(quarantine.keep(name, batch.id, batch.rows, tables))
        return _Outcome(batch, batch.rows, anomalies, audit.profile, branch=branch if ahead else None, columns=columns)
    if not ahead:
        tables.create(name, rows.schema)
        _SCHEMAS[tables].pop(name, None)
        tables.append(name, rows, batch=batch.id, branch=branch)
    return _Outcome(batch, rows, (), audit.profile, tables.publish(name, branch).id)


def _schema(tables: TableStore, name: str) -> pa.Schema:
    """The table's schema, without columns when there is no such table yet.

    Remembered per store, for tables only ever gain columns, and a column that is not remembered is merely created again.
    """
    known = _SCHEMAS.setdefault(tables, {})
    if name not in known:
        try:
            known[name] = tables.scan(name).schema
        except NotFoundError:
            return pa.schema([])
    return known[name]


def _once(anomalies: tuple[Anomaly, ...]) -> tuple[Anomaly, ...]:
    """The first anomaly of each column and rule (quantiles may be several)."""
    return tuple({(a.column, a.rule, a.expected if a.rule == "quantiles" else ""): a for a in reversed(anomalies)}.values())[::-1]


def _record(work: _Work, outcome: _Outcome, wall_s: float) -> None:
    """Everything that the ledger keeps of a batch, in one transaction."""
    batch, at_us, name = outcome.batch, work.clock.now_us(), work.table.name
    anomalies = [asdict(anomaly) for anomaly in outcome.anomalies]
    with work.ledger.write() as db:
        new = insert_once(
            db,
            t.batch,
            {
                "id": batch.id,
                "table_name": name,
                "source": batch.origin,
                "status": outcome.status,
                "rows": outcome.rows.num_rows,
                "snapshot_id": outcome.snapshot_id,
                "branch": outcome.branch,
                "anomalies": to_json(anomalies),
                "cursor": batch.cursor,
                "digest": batch.digest,
                "at_us": at_us,
                "wall_ms": wall_s * 1000,
            },
        )
        if not new:
            return
        _keep_cursor(db, work, batch.cursor)
        if anomalies:
            evidence = {"anomalies": anomalies, "columns": outcome.columns, "rows": outcome.rows.num_rows}
            insert_once(db, t.decision, _decision(name, batch, evidence, at_us))
        elif outcome.profile is not None:
            insert_once(db, t.profile, _profile(work.table, outcome, outcome.profile, at_us))
        body = {"batch": batch.id, "origin": batch.origin, "rows": outcome.rows.num_rows, "anomalies": anomalies}
        emit(db, f"batch.{outcome.status}", name, body, at_us=at_us)


def _decision(table: str, batch: Batch, evidence: dict[str, Any], at_us: int) -> dict[str, Any]:
    return {
        "id": _decision_id(batch.id),
        "kind": "audit",
        "service": "",
        "subject": f"{table}/{batch.id}",
        "outcome": "reject",
        "cause": to_json({"batch": batch.id, "origin": batch.origin}),
        "evidence": to_json(evidence),
        "actor": "tidemill",
        "reverses": None,
        "at_us": at_us,
    }


def _decision_id(batch_id: str) -> str:
    return ids.derive("decision", "audit", batch_id)


def _profile(table: Table, outcome: _Outcome, profile: Profile, at_us: int) -> dict[str, Any]:
    """The batch's profile, over the known times of its rows."""
    ends = pc.min_max(outcome.rows[table.known_time].cast(pa.int64())).as_py()
    first, last = (ends["min"], ends["max"]) if outcome.rows.num_rows else (outcome.batch.available_us,) * 2
    body = profile.to_bytes()
    return {"subject": f"table:{table.name}", "from_us": first, "until_us": last, "rows": profile.rows, "body": body, "at_us": at_us}


def begun(table: Table, url: str, ledger: Ledger) -> str | None:
    """How far ingestion has taken one of a table's sources: its cursor, None when it has taken nothing."""
    with ledger.read() as db:
        kept = from_json(db.execute(sa.select(t.state.c.value).where(t.state.c.name == _cursor_name(table))).scalar())
    if kept is None or len(table.sources) == 1:
        return None if kept is None else str(kept)
    of_part = json.loads(kept)[table.sources.index(url)]
    return None if of_part is None else str(of_part)


def _cursor_name(table: Table) -> str:
    """A cursor belongs to a table and its source: another source starts from its own beginning."""
    return f"cursor:{table.name}:{ids.derive('source', *table.sources)}"


def _cursor(work: _Work) -> str | None:
    with work.ledger.read() as db:
        kept = from_json(db.execute(sa.select(t.state.c.value).where(t.state.c.name == _cursor_name(work.table))).scalar())
    return None if kept is None else str(kept)


def _keep_cursor(db: sa.Connection, work: _Work, cursor: str) -> None:
    upsert(db, t.state, {"name": _cursor_name(work.table), "value": to_json(cursor), "at_us": work.clock.now_us()})


def _known(ledger: Ledger, batch_id: str) -> bool:
    with ledger.read() as db:
        return db.execute(sa.select(t.batch.c.id).where(t.batch.c.id == batch_id)).first() is not None

"""Versioned tables: Iceberg on the local disk, with branches for write-audit-publish."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from tidemill.core.clock import Clock
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError, not_found
from tidemill.ledger.queue import queue_for
from tidemill.versioning.embedded import disk, maintenance, memory, moved
from tidemill.versioning.embedded.catalog import NAMESPACE, LocalCatalog
from tidemill.versioning.embedded.columns import check, storable
from tidemill.versioning.embedded.history import MAIN, add, at_us, drop_name, fact, history, id_of, own_snapshots, point
from tidemill.versioning.embedded.snapshots import (
    AT,
    BATCH,
    BRANCH,
    FORK,
    added,
    columns,
    entries,
    live,
    manifests,
    snapshot_id,
    write_rows,
    write_snapshot,
)
from tidemill.versioning.ports import Scan, Snapshot

T = TypeVar("T")
_PROPERTIES = {"format-version": "2", "write.metadata.previous-versions-max": "8", "write.parquet.compression-codec": "zstd"}
_ATTEMPTS = 20
_TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class IcebergTableStore:
    """A `TableStore` in a folder, readable by every engine that reads Iceberg.

    Writers of one table take turns, over processes. Every change is one commit of the table's metadata, so who is killed leaves
    the state before or after it; starting again finds by batch and branch what was done.
    """

    def __init__(self, warehouse: Path, catalog_url: str, clock: Clock) -> None:
        self._warehouse = Path(warehouse).resolve()
        self._clock = clock
        self._locks = self._warehouse / ".locks"
        self._locks.mkdir(parents=True, exist_ok=True)
        self._catalog = LocalCatalog(catalog_url, self._warehouse)

    def strangers(self) -> Mapping[str, str]:
        """Tables that were made where the folder no longer is, and where that was; reading them is a `ConflictError`."""
        return moved.strangers(self._catalog.engine, self._warehouse)

    def relocate(self) -> list[str]:
        """Tell the tables where their folder is now; returns the names of those that had to be told. For when nobody else uses them."""
        with self._catalog.turn():
            return moved.relocate(self._catalog.engine, self._warehouse)

    def create(self, table: str, schema: pa.Schema) -> None:
        wanted = storable(schema)
        try:
            missing = self._missing(self._catalog.table(table), wanted)
        except NotFoundError:
            missing = list(wanted)
        if missing:
            with self._turn(table), self._catalog.turn():
                self._create(table, wanted)

    def append(self, table: str, rows: pa.Table, *, batch: str, branch: str) -> Snapshot:
        return self._change(table, lambda held: self._taken(held, batch, branch) or self._append(held, rows, batch, branch))

    def publish(self, table: str, branch: str) -> Snapshot:
        def attempt(held: Table) -> Snapshot:
            if branch == MAIN or branch not in held.metadata.refs:
                return self._published(held, branch)
            return self._publish(held, branch)

        return self._change(table, attempt)

    def scan(self, table: str, at: int | str | None = None) -> Scan:
        held = self._catalog.table(table)
        snapshot, schema = _at(held, at)
        paths = tuple(str(disk.local(entry.data_file.file_path)) for entry in live(held, snapshot))
        return Scan(table, id_of(snapshot), columns(held, schema), paths)

    def snapshots(self, table: str | None = None) -> list[Snapshot]:
        if table is None:
            heads = ((held, held.metadata.current_snapshot()) for held in map(self._catalog.table, self._catalog.tables()))
            return [_shown(held, head) for held, head in heads if head is not None]
        held = self._catalog.table(table)
        newest = sorted(held.metadata.snapshots, key=lambda s: s.sequence_number or 0, reverse=True)
        return [_shown(held, snapshot) for snapshot in newest]

    def tag(self, table: str, snapshot_id: int, name: str) -> None:
        def attempt(held: Table) -> None:
            there = held.metadata.refs.get(name)
            if there is not None and (there.snapshot_id, there.snapshot_ref_type) == (snapshot_id, SnapshotRefType.TAG):
                return
            if there is not None:
                raise ConflictError(f"{name!r} already names snapshot {there.snapshot_id} of {table!r}; choose another tag")
            _at(held, snapshot_id)
            self._catalog.commit(held, (point(name, snapshot_id, kind=SnapshotRefType.TAG),))

        self._change(table, attempt)

    def maintain(self, table: str, *, now_us: int, keep_us: int, forget: tuple[str, int] | None = None) -> Mapping[str, int]:
        return self._change(table, lambda held: maintenance.maintain(held, self._catalog, now_us=now_us, keep_us=keep_us, forget=forget))

    def _create(self, table: str, wanted: pa.Schema) -> None:
        held = self._catalog.create_table_if_not_exists(
            (NAMESPACE, table), schema=wanted, location=f"file://{self._warehouse}/{table}", properties=_PROPERTIES
        )
        missing = self._missing(held, wanted)
        if missing:
            with held.update_schema() as change:
                change.union_by_name(pa.schema(missing))

    def _missing(self, held: Table, wanted: pa.Schema) -> list[pa.Field]:
        """Columns of `wanted` that the table lacks. Raises `InvalidError` for columns of another type."""
        has = storable(columns(held))
        for field in wanted:
            if field.name in has.names and not has.field(field.name).type.equals(field.type):
                raise InvalidError(
                    f"the column {field.name!r} of {_name(held)!r} is {has.field(field.name).type} and cannot become {field.type}; "
                    "convert the rows, or give the new column another name"
                )
        return [field for field in wanted if field.name not in has.names]

    def _append(self, held: Table, rows: pa.Table, batch: str, branch: str) -> Snapshot:
        head, ref = held.metadata.current_snapshot(), held.metadata.refs.get(branch)
        if ref is not None and ref.snapshot_ref_type != SnapshotRefType.BRANCH:
            raise ConflictError(f"{branch!r} is a tag of {_name(held)!r}; append to a branch of another name")
        parent = held.metadata.snapshot_by_id(ref.snapshot_id) if ref else head
        fork = fact(parent, FORK) if ref and branch != MAIN else str(id_of(head) or "")
        identity = snapshot_id(_name(held), batch, branch, id_of(parent))
        check(rows.schema, columns(held), _name(held))
        snapshot = write_snapshot(
            held,
            identity,
            parent,
            sequence=held.metadata.next_sequence_number(),
            kept=manifests(held, parent),
            new=[added(write_rows(held, rows, str(identity)))] if rows.num_rows else [],
            properties={BATCH: batch, BRANCH: branch, FORK: fork, AT: str(self._clock.now_us())},
        )
        made = self._catalog.commit(
            held, (add(snapshot), point(branch, identity)), durable=branch == MAIN
        )  # a branch may be appended to again
        return _shown(made, snapshot)

    def _publish(self, held: Table, branch: str) -> Snapshot:
        head, tip = held.metadata.current_snapshot(), held.metadata.snapshot_by_name(branch)
        if tip is None or held.metadata.refs[branch].snapshot_ref_type != SnapshotRefType.BRANCH:
            raise InvalidError(f"{branch!r} of {_name(held)!r} is a tag; only branches are published")
        updates: list[Any] = []
        if fact(tip, FORK) != str(id_of(head) or ""):
            redone = self._redo(held, head, branch, tip)
            updates, tip = [add(snapshot) for snapshot in redone], redone[-1]
        updates += [point(MAIN, tip.snapshot_id), drop_name(branch)]
        return _shown(self._catalog.commit(held, updates), tip)

    def _redo(self, held: Table, head: IcebergSnapshot | None, branch: str, tip: IcebergSnapshot) -> list[IcebergSnapshot]:
        """The branch's own snapshots once more, on top of where main is now; the data files are the same ones."""
        made: list[IcebergSnapshot] = []
        sequence, parent, kept = held.metadata.next_sequence_number(), head, list(manifests(held, head))
        for own in reversed(own_snapshots(held, tip)):
            files = [e for m in manifests(held, own) if m.added_snapshot_id == own.snapshot_id for e in entries(held, m)]
            parent = write_snapshot(
                held,
                snapshot_id(_name(held), fact(own, BATCH), branch, id_of(parent), "redo"),
                parent,
                sequence=sequence,
                kept=kept,
                new=[added(entry.data_file) for entry in files],
                properties={BATCH: fact(own, BATCH), BRANCH: branch, FORK: str(id_of(head) or ""), AT: str(self._clock.now_us())},
            )
            made.append(parent)
            kept, sequence = list(manifests(held, parent)), sequence + 1
        return made

    def _taken(self, held: Table, batch: str, branch: str) -> Snapshot | None:
        for name in dict.fromkeys((MAIN, branch)):
            for snapshot in history(held, held.metadata.snapshot_by_name(name)):
                if fact(snapshot, BATCH) == batch:
                    return _shown(held, snapshot)
        head = held.metadata.current_snapshot()
        return _shown(held, head) if head is not None and memory.knows(held, "batch", batch) else None

    def _published(self, held: Table, branch: str) -> Snapshot:
        """What main is, if `branch` was published before."""
        head = held.metadata.current_snapshot()
        if head is not None and branch == MAIN:
            return _shown(held, head)
        for snapshot in history(held, head):
            if fact(snapshot, BRANCH) == branch:
                return _shown(held, snapshot)
        if head is not None and memory.knows(held, "branch", branch):
            return _shown(held, head)
        raise not_found(f"branch of {_name(held)}", branch, held.metadata.refs)

    @contextlib.contextmanager
    def _turn(self, table: str) -> Iterator[None]:
        if not _TABLE.fullmatch(table):  # it names files
            raise not_found("table", table, self._catalog.tables())
        queue = queue_for(self._locks / table)
        queue.enter()
        try:
            yield
        finally:
            queue.leave(committed=False)

    def _change(self, table: str, attempt: Callable[[Table], T]) -> T:
        """Do it on the table as it is; again, on what it became, when another engine commits in between."""
        with self._turn(table):
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(CommitFailedException):
                    return attempt(self._catalog.table(table))
        raise ConflictError(f"other writers changed the table {table!r} {_ATTEMPTS} times in a row; nothing was written, try again")


def _name(held: Table) -> str:
    return str(held.name()[-1])


def _at(held: Table, at: int | str | None) -> tuple[IcebergSnapshot | None, Any]:
    """A snapshot and the columns it has: those of the table for main, else those of its time."""
    if at is None or at == MAIN:
        return held.metadata.current_snapshot(), held.schema()
    identity = int(at) if isinstance(at, str) and at not in held.metadata.refs and at.isdigit() else at
    found = held.metadata.snapshot_by_id(identity) if isinstance(identity, int) else held.metadata.snapshot_by_name(identity)
    if found is None:
        known = [*held.metadata.refs, *(str(s.snapshot_id) for s in held.metadata.snapshots)]
        raise not_found(f"snapshot, branch or tag of {_name(held)}", str(at), known)
    return found, held.schema() if found.schema_id is None else held.schemas().get(found.schema_id, held.schema())


def _shown(held: Table, snapshot: IcebergSnapshot) -> Snapshot:
    facts = {} if snapshot.summary is None else {"operation": snapshot.summary.operation.value, **snapshot.summary.additional_properties}
    return Snapshot(
        table=_name(held),
        id=snapshot.snapshot_id,
        parent=snapshot.parent_snapshot_id,
        committed_us=at_us(snapshot),
        rows=int(facts.get("total-records", 0)),
        added=int(facts.get("added-records", 0)),
        summary=facts,
        refs=tuple(sorted(name for name, ref in held.metadata.refs.items() if ref.snapshot_id == snapshot.snapshot_id)),
    )

"""Keeping commits and scans of a table flat: small files become larger ones, old snapshots go.

Everything is one commit. Files are deleted after it, by a list that was written before it: who is killed in between finishes the
deletion at the next maintenance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.manifest import ManifestEntry
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot

from tidemill.versioning.embedded import disk, memory
from tidemill.versioning.embedded.catalog import LocalCatalog
from tidemill.versioning.embedded.history import (
    MAIN,
    add,
    at_us,
    expire,
    fact,
    history,
    id_of,
    own_snapshots,
    point,
    set_property,
)
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

_SMALL = 64 << 20
"""Files below this are worth merging, in bytes."""
_MANIFESTS = 4
"""Manifests that a snapshot may have before they are written as one."""


Forget = tuple[str, int] | None
"""A column of times and the instant before which rows go."""


def maintain(table: Table, catalog: LocalCatalog, *, now_us: int, keep_us: int, forget: Forget = None) -> Mapping[str, int]:
    """Compact, forget and expire in one commit; return counts of what was done."""
    _sweep(table)
    head = table.metadata.current_snapshot()
    compacted, merged, written = _compact(table, head, now_us, forget)
    expired = _expirable(table, compacted or head, before_us=now_us - keep_us)
    counts = {"files_merged": merged, "files_written": written, "snapshots_expired": len(expired), "files_removed": 0}
    updates: list[Any] = []
    if compacted is not None:
        updates += [add(compacted), point(MAIN, compacted.snapshot_id)]
    note = disk.local(f"{table.location()}/metadata/garbage-{snapshot_id('garbage', table.metadata_location)}.json")
    garbage: set[str] = set()
    if expired:
        updates += [set_property(memory.PROPERTY, _remember(table, head)), expire([s.snapshot_id for s in expired])]
        garbage = _garbage(table, expired, compacted)
        disk.write(note, json.dumps(sorted(garbage)).encode())
    if updates:
        catalog.commit(table, updates)
        counts["files_removed"] = _delete(garbage, note)
    return counts


def _garbage(table: Table, expired: Sequence[Snapshot], compacted: Snapshot | None) -> set[str]:
    """Files that nothing needs without the expired snapshots."""
    gone = {s.snapshot_id for s in expired}
    kept = [s for s in table.metadata.snapshots if s.snapshot_id not in gone] + ([compacted] if compacted else [])
    remembered = table.properties.get(memory.PROPERTY)
    return (_files(table, expired) - _files(table, kept)) | ({remembered} if remembered else set())


def _compact(table: Table, head: Snapshot | None, now_us: int, forget: Forget) -> tuple[Snapshot | None, int, int]:
    """A snapshot with the rows of `head` in fewer files and one manifest, without those to forget; None when there is nothing to win."""
    files = live(table, head)
    groups = list(_groups(files))
    old = {entry.data_file.file_path for entry in files if forget and _begins_before(entry, *forget)}
    merged = sum(len(group) for group in groups if len(group) > 1)
    if head is None or (not merged and not old and len(manifests(table, head)) <= _MANIFESTS):
        return None, 0, 0
    identity = snapshot_id(table.name()[-1], "compact", head.snapshot_id)
    new: list[ManifestEntry] = []
    existing: list[ManifestEntry] = []
    removed: list[ManifestEntry] = []
    for number, group in enumerate(groups):
        if len(group) == 1 and group[0].data_file.file_path not in old:
            existing.append(group[0])
            continue
        rows = pa.concat_tables(_read(table, entry) for entry in group)
        if forget is not None:
            rows = rows.filter(pc.fill_null(pc.greater_equal(_times(rows.column(forget[0])), forget[1]), True))
        if rows.num_rows:
            new.append(added(write_rows(table, rows, f"{identity}-{number}"), group[-1].sequence_number))
        removed += group
    properties = {AT: str(now_us), BATCH: "", BRANCH: "main", FORK: ""}
    sequence = table.metadata.next_sequence_number()
    made = write_snapshot(
        table,
        identity,
        head,
        sequence=sequence,
        new=new,
        existing=existing,
        removed=removed,
        operation=Operation.OVERWRITE if old else Operation.REPLACE,
        properties=properties,
    )
    return made, merged, len(new)


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64())


def _begins_before(entry: ManifestEntry, column: str, before_us: int) -> bool:
    """Whether a file has a row of before an instant; a file without the column has none."""
    file = pq.ParquetFile(disk.local(entry.data_file.file_path))
    if column not in file.schema_arrow.names:
        return False
    first = pc.min(_times(file.read([column], use_threads=False).column(0))).as_py()
    return first is not None and first < before_us


def _groups(files: Sequence[ManifestEntry]) -> Iterator[list[ManifestEntry]]:
    """Neighbours to merge, oldest first.

    A file joins the newer ones when it is not much larger than all of them together, so that each row is rewritten O(log n) times,
    and never when it is large.
    """
    groups: list[list[ManifestEntry]] = []
    size = 0
    for entry in reversed(files):
        mine = entry.data_file.file_size_in_bytes
        if groups and mine <= max(2 * size, 1 << 20) and size + mine < _SMALL:
            groups[-1].append(entry)
            size += mine
        else:
            groups.append([entry])
            size = mine
    return (list(reversed(group)) for group in reversed(groups))


def _read(table: Table, entry: ManifestEntry) -> pa.Table:
    """The rows of a file in the table's columns."""
    rows = pq.ParquetFile(disk.local(entry.data_file.file_path)).read(use_threads=False)
    schema = columns(table)
    values = [rows.column(f.name).cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(values, schema=schema)


def _expirable(table: Table, head: Snapshot | None, *, before_us: int) -> list[Snapshot]:
    """Snapshots that nothing names and that were replaced before `before_us`. Branches keep all their own snapshots."""
    kept = {id_of(head)}
    for name, ref in table.metadata.refs.items():
        tip = table.metadata.snapshot_by_id(ref.snapshot_id)
        if name != MAIN and tip is not None:
            branch = ref.snapshot_ref_type == SnapshotRefType.BRANCH
            kept |= {s.snapshot_id for s in (own_snapshots(table, tip) if branch else [tip])}
    replaced: dict[int, int] = {}
    for snapshot in [*table.metadata.snapshots, *([head] if head else [])]:
        if snapshot.parent_snapshot_id is not None:
            replaced[snapshot.parent_snapshot_id] = max(at_us(snapshot), replaced.get(snapshot.parent_snapshot_id, 0))
    old = (s for s in table.metadata.snapshots if replaced.get(s.snapshot_id, at_us(s)) < before_us)
    return [s for s in old if s.snapshot_id not in kept]


def _remember(table: Table, head: Snapshot | None) -> str:
    past = list(history(table, head))
    names = {("batch", fact(s, BATCH)) for s in past if fact(s, BATCH)} | {("branch", fact(s, BRANCH)) for s in past}
    return memory.extend(table, names, str(snapshot_id(table.metadata_location)))


def _files(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Every file that these snapshots need."""
    found: set[str] = set()
    for snapshot in snapshots:
        found.add(snapshot.manifest_list)
        for manifest in manifests(table, snapshot):
            if manifest.manifest_path not in found:
                found.add(manifest.manifest_path)
                found |= {entry.data_file.file_path for entry in entries(table, manifest)}
    return found


def _sweep(table: Table) -> None:
    """Finish deletions that were cut off."""
    notes = list(Path(disk.local(f"{table.location()}/metadata")).glob("garbage-*.json"))
    if not notes:
        return
    needed = _files(table, table.metadata.snapshots) | {table.properties.get(memory.PROPERTY, "")}
    for note in notes:
        _delete(set(json.loads(note.read_bytes())) - needed, note)


def _delete(locations: set[str], note: Path) -> int:
    for location in locations:
        disk.local(location).unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    return len(locations)

"""Writing the files of a snapshot, and reading which files a snapshot has.

pyiceberg's own `Table.append` copies the table's whole metadata a dozen times per commit and names everything at random. Here a snapshot's id is
derived from what makes it (table, parent, batch), and its files are named after it: who is killed half-way and starts again writes
the same files, and nothing is left over. The file formats are pyiceberg's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    read_manifest_list,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.typedef import Record

from tidemill.core import digests
from tidemill.versioning.embedded import disk
from tidemill.versioning.embedded.columns import conform

BATCH, AT, BRANCH, FORK = "tidemill.batch", "tidemill.at-us", "tidemill.branch", "tidemill.fork"
_COUNTS = ("data-files", "records", "files-size")
_lists: LRUCache[str, tuple[ManifestFile, ...]] = LRUCache(256)
_plans: LRUCache[str, Any] = LRUCache(256)
_entries: LRUCache[str, tuple[ManifestEntry, ...]] = LRUCache(4096)


class Fixed(Snapshot):
    """A snapshot that copies of the metadata share: pyiceberg copies it all at each commit, and snapshots never change."""

    def __deepcopy__(self, memo: Any = None) -> Fixed:
        return self


_fixed: Any = Fixed  # takes names by field, which type checkers see by alias


def fixed(table: Table) -> Table:
    """A loaded table whose snapshots are `Fixed`."""
    snapshots = [Fixed.model_construct(_fields_set=s.model_fields_set, **dict(s)) for s in table.metadata.snapshots]
    table.metadata = table.metadata.model_copy(update={"snapshots": snapshots})
    return table


def snapshot_id(*parts: Any) -> int:
    """A positive 63-bit id derived from JSON values."""
    return int.from_bytes(sha256(digests.canonical_json(list(parts))).digest()[:8], "big") >> 1 or 1


def manifests(table: Table, snapshot: Snapshot | None) -> tuple[ManifestFile, ...]:
    """The manifests of a snapshot; its list is read once, for it never changes."""
    if snapshot is None:
        return ()
    found = _lists.get(snapshot.manifest_list)
    if found is None:
        found = _lists[snapshot.manifest_list] = tuple(read_manifest_list(table.io.new_input(snapshot.manifest_list)))
    return found


def entries(table: Table, manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
    """The live entries of a manifest; read once, for it never changes."""
    found = _entries.get(manifest.manifest_path)
    if found is None:
        found = _entries[manifest.manifest_path] = tuple(manifest.fetch_manifest_entry(table.io))
    return found


def live(table: Table, snapshot: Snapshot | None) -> list[ManifestEntry]:
    """The data files of a snapshot, in the order in which their rows were ingested."""
    found = [entry for manifest in manifests(table, snapshot) for entry in entries(table, manifest)]
    return sorted(found, key=lambda entry: entry.sequence_number or 0)


def write_rows(table: Table, rows: pa.Table, name: str) -> DataFile:
    """Write one Parquet file of rows that conform to the table's schema."""
    arrow, plan, mapping = _writing(table)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, arrow, compression="zstd", store_schema=False) as writer:
        writer.write_table(conform(rows, writer.schema, str(table.name()[-1])))
    body = sink.getvalue()
    path = f"{table.location()}/data/{name}.parquet"
    disk.write(disk.local(path), body)
    statistics = data_file_statistics_from_parquet_metadata(writer.writer.metadata, plan, mapping)
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        file_size_in_bytes=len(body),
        sort_order_id=None,
        spec_id=table.spec().spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def _writing(table: Table) -> tuple[pa.Schema, Any, Any]:
    """What a table's files are written with: Arrow columns with field ids, the statistics to keep, and column paths by id."""
    schema = table.schema()
    key = f"{table.metadata.table_uuid}/{schema.schema_id}"
    found = _plans.get(key)
    if found is None:
        arrow = schema_to_pyarrow(schema, include_field_ids=True)
        found = _plans[key] = (arrow, compute_statistics_plan(schema, table.properties), parquet_path_to_id_mapping(schema))
    return found


def columns(table: Table, schema: Schema | None = None) -> pa.Schema:
    """A table's columns, or those it had."""
    schema = schema or table.schema()
    key = f"{table.metadata.table_uuid}/{schema.schema_id}/columns"
    found = _plans.get(key)
    if found is None:
        found = _plans[key] = schema_to_pyarrow(schema, include_field_ids=False)
    return found


def added(file: DataFile, sequence: int | None = None) -> ManifestEntry:
    """The entry of a new file; `sequence` places its rows in the ingestion order (None: at the end)."""
    return ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=None, sequence_number=sequence, data_file=file)


def write_snapshot(
    table: Table,
    identity: int,
    parent: Snapshot | None,
    *,
    sequence: int,
    kept: Sequence[ManifestFile] = (),
    new: Sequence[ManifestEntry] = (),
    existing: Sequence[ManifestEntry] = (),
    removed: Sequence[ManifestEntry] = (),
    operation: Operation = Operation.APPEND,
    properties: Mapping[str, str],
) -> Snapshot:
    """Write manifest and manifest list of a snapshot that has the manifests `kept` and one with the other entries.

    `removed` are files that the parent had and this one has not, for the totals.
    """
    lists, before = list(kept), None if parent is None else parent.snapshot_id
    if new or existing:
        lists.append(_write_manifest(table, identity, new, existing))
    path = f"{table.location()}/metadata/snap-{identity}.avro"
    with write_manifest_list(2, table.io.new_output(path), identity, before, sequence, "deflate") as writer:
        writer.add_manifests(lists)
    for location in (path, *(manifest.manifest_path for manifest in lists[len(kept) :])):
        disk.written(disk.local(location))
    made: Snapshot = _fixed(
        snapshot_id=identity,
        parent_snapshot_id=before,
        manifest_list=path,
        sequence_number=sequence,
        summary=_summary(operation, parent, [e.data_file for e in new], [e.data_file for e in removed], properties),
        schema_id=table.schema().schema_id,
    )
    return made


def _write_manifest(table: Table, identity: int, new: Sequence[ManifestEntry], existing: Sequence[ManifestEntry]) -> ManifestFile:
    path = f"{table.location()}/metadata/{identity}-m0.avro"
    with write_manifest(2, table.spec(), table.schema(), table.io.new_output(path), identity, "deflate") as writer:
        for entry in existing:
            writer.existing(entry)
        for entry in new:
            writer.add(entry)
    return writer.to_manifest_file()


def _summary(
    operation: Operation, parent: Snapshot | None, new: Sequence[DataFile], removed: Sequence[DataFile], properties: Mapping[str, str]
) -> Summary:
    before: Any = parent.summary if parent is not None and parent.summary is not None else {}
    values: dict[str, str] = {}
    for name, plus, minus in zip(_COUNTS, _measure(new), _measure(removed), strict=True):
        values[f"added-{name}"] = str(plus)
        if minus:
            values[f"deleted-{name}"] = str(minus)
        values[f"total-{name}"] = str(int(before.get(f"total-{name}", None) or 0) + plus - minus)
    for name in ("delete-files", "position-deletes", "equality-deletes"):
        values[f"total-{name}"] = "0"
    return Summary(operation, **values, **properties)


def _measure(files: Sequence[DataFile]) -> tuple[int, int, int]:
    return len(files), sum(f.record_count for f in files), sum(f.file_size_in_bytes for f in files)

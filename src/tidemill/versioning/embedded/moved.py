"""Tables whose folder was moved or copied: Iceberg's files name one another by absolute paths, so the new place is written into all of them.

Each file is replaced in one step and says the same as before, so who is killed here starts again and ends where an undisturbed one
does. The catalog, which is changed last, tells which tables are still to do; until then nobody reads or writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pyiceberg.avro.file import AvroFile, AvroOutputFile
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import Record

from tidemill.core.errors import ConflictError
from tidemill.versioning.embedded import disk

_SCHEMA_KEY = "avro.schema"
_TABLES = sa.text("SELECT catalog_name, table_namespace, table_name, metadata_location FROM iceberg_tables ORDER BY table_name")
_POINT = sa.text(
    "UPDATE iceberg_tables SET metadata_location = :here, previous_metadata_location = NULL "
    "WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
)


def old_place(metadata_location: str, table: str) -> str:
    """Where a table's lake was when its metadata was written: `file:///…/lake`."""
    return metadata_location.rpartition(f"/{table}/metadata/")[0]


def refuse(metadata_location: str, table: str, warehouse: Path) -> None:
    """Raise `ConflictError` for a table that was made elsewhere: its files would be looked for, and written, there."""
    old = old_place(metadata_location, table)
    if old != f"file://{warehouse}":
        raise ConflictError(
            f"the table {table!r} was made in {disk.local(old)} and its folder is {warehouse} now; "
            "when nothing else uses the project, run `tidemill doctor --fix` to tell the tables their new place"
        )


def strangers(engine: sa.Engine, warehouse: Path) -> dict[str, str]:
    """Tables that were made elsewhere, and where."""
    with engine.connect() as db:
        found = {str(row.table_name): old_place(str(row.metadata_location), str(row.table_name)) for row in db.execute(_TABLES)}
    return {name: place for name, place in found.items() if place != f"file://{warehouse}"}


def relocate(engine: sa.Engine, warehouse: Path) -> list[str]:
    """Write the new place into all tables that were made elsewhere; returns their names. The caller has the catalog's turn."""
    new, done = f"file://{warehouse}", []
    with engine.connect() as db:
        rows = db.execute(_TABLES).all()
    for catalog, namespace, name, location in rows:
        old = old_place(str(location), str(name))
        if old == new:
            continue
        here = new + str(location).removeprefix(old)
        if not disk.local(here).is_file():
            raise ConflictError(
                f"the table {name!r} has no file {disk.local(here)}; move the whole project, then run `tidemill doctor --fix`"
            )
        _rewrite(warehouse / str(name) / "metadata", old, new)
        with engine.begin() as db:
            db.execute(_POINT, {"here": here, "catalog": catalog, "namespace": namespace, "name": name})
        done.append(str(name))
    return done


def _rewrite(folder: Path, old: str, new: str) -> None:
    lists = sorted(folder.glob("snap-*.avro"))
    sizes = {}
    for path in sorted(set(folder.glob("*.avro")) - set(lists)):
        _rewrite_avro(path, old, new, {})
        sizes[path.name] = path.stat().st_size
    for path in lists:
        _rewrite_avro(path, old, new, sizes)
    for path in sorted(folder.glob("*.json")):
        _replace(path, json.dumps(_moved(json.loads(path.read_bytes()), old, new)).encode())
    disk.sync()


def _rewrite_avro(path: Path, old: str, new: str, sizes: dict[str, int]) -> None:
    """Replace paths in a manifest, or in a list of manifests, whose `sizes` are noted in it."""
    io = PyArrowFileIO()
    with AvroFile[Record](io.new_input(str(path))) as source:
        records = [_moved(record, old, new) for record in source]
        meta, schema = dict(source.header.meta), source.schema
    names = [field.name for field in schema.fields]
    if "manifest_length" in names:
        for record in records:
            at = str(record[names.index("manifest_path")]).rpartition("/")[2]
            record[names.index("manifest_length")] = sizes.get(at, record[names.index("manifest_length")])
    title = json.loads(meta.pop(_SCHEMA_KEY))["name"]
    part = path.with_suffix(".part")
    with AvroOutputFile[Record](io.new_output(str(part)), schema, title, metadata=meta) as target:
        target.write_block(records)
    _replace(path, part.read_bytes())
    part.unlink()


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".new")
    disk.write(part, data)
    disk.sync()
    part.replace(path)
    disk.written(path)


def _moved(value: Any, old: str, new: str) -> Any:
    """A value with every path below `old` put below `new`."""
    if isinstance(value, str):
        return new + value.removeprefix(old) if value == old or value.startswith(f"{old}/") else value
    if isinstance(value, Record):
        for position, inside in enumerate(_fields(value)):
            value[position] = _moved(inside, old, new)
        return value
    if isinstance(value, dict):
        return {key: _moved(inside, old, new) for key, inside in value.items()}
    if isinstance(value, list):
        return [_moved(inside, old, new) for inside in value]
    return value


def _fields(record: Record) -> Iterator[Any]:
    return (record[position] for position in range(len(record)))

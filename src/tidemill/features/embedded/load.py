"""From a scan to rows in memory: all at once, or a part of the entities at a time when there are too many.

DuckDB reads the files and computes fields and conditions; the kernels beside this file do the rest on arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa

from tidemill.core.definitions import FeatureView, Table
from tidemill.features.checks import check_columns, check_types
from tidemill.features.embedded.revisions import Revised, revisions
from tidemill.features.embedded.source import FILES, ORDER, Int64, Rows, relation
from tidemill.features.fields import Field, conditions, expression, fields_of, quote, refused
from tidemill.versioning.ports import Scan

_BROKEN = (duckdb.BinderException, duckdb.ParserException, duckdb.ConversionException)


class Loader:
    """Reads what some views need of their table, as known at `until_us`."""

    def __init__(self, db: duckdb.DuckDBPyConnection, scan: Scan, table: Table, views: Sequence[FeatureView], until_us: int) -> None:
        self.db, self.views = db, tuple(views)
        self._scan, self._table, self._until = scan, table, until_us
        self._fields = fields_of(views)
        self._keys = sorted({k for v in views for k in v.keys})
        check_columns(table, scan, [*(f.column for f in self._fields if f.column), *self._keys])
        check_types(table, views, scan.schema)
        self._masks = {where: f"_w{i}" for i, where in enumerate(conditions(self._fields))}
        self._names: dict[Field | str, str] = {f: f"f_{i}" for i, f in enumerate(self._fields)} | dict(self._masks)

    def of(self, view: FeatureView) -> Loader:
        """The same for one of the views alone."""
        return Loader(self.db, self._scan, self._table, [view], self._until)

    @cached_property
    def count(self) -> int:
        """How many rows the files hold."""
        if not self._scan.paths:
            return 0
        found = self.db.sql("SELECT sum(num_rows) FROM parquet_file_metadata(?)", params=[list(self._scan.paths)]).fetchall()
        return int(found[0][0])

    @cached_property
    def _revised(self) -> Revised:
        return revisions(self.db, self._scan, self._table, self._until)

    @cached_property
    def _picked(self) -> dict[str, str]:
        picked = {f"k_{k}": quote(k) for k in self._keys}
        picked |= {self._names[f]: expression(f, self._scan.schema, self._masks) for f in self._fields}
        return picked | {name: name for name in self._masks.values()}

    def all(self) -> Rows:
        """All rows that can count."""
        if not self._scan.paths:
            return _empty(self._picked, self._names, self._scan)
        try:
            found = self.db.sql(self._query(), params=[list(self._scan.paths)]).to_arrow_table()
        except _BROKEN as error:
            raise refused(self._table, list(self._masks), error) from error
        return self._rows(found)

    def parts(self, parts: int, folder: Path) -> Iterator[Rows]:
        """The rows of one part of the entities after the other: part i holds those with `part_of` i. Written to `folder` in between."""
        with TemporaryDirectory(dir=folder) as spill:
            text = self._query(
                f", ({part_of(self._keys, self._scan.schema, parts)}) AS _part", " AND ".join(f"{quote(k)} IS NOT NULL" for k in self._keys)
            )
            target = f"COPY ({text}) TO '{spill}' (FORMAT parquet, PARTITION_BY (_part), COMPRESSION lz4, OVERWRITE_OR_IGNORE)"
            try:
                self.db.execute(target, [list(self._scan.paths)])
            except _BROKEN as error:
                raise refused(self._table, list(self._masks), error) from error
            for i in range(parts):
                files = sorted(map(str, Path(spill).glob(f"_part={i}/*.parquet")))
                if not files:
                    yield _empty(self._picked, self._names, self._scan)
                    continue
                found = self.db.sql("SELECT * FROM read_parquet(?, hive_partitioning = false)", params=[files]).to_arrow_table()
                yield self._rows(found)

    def _query(self, more: str = "", which: str = "true") -> str:
        event, known = (f"epoch_us({quote(c)}::TIMESTAMPTZ)" for c in (self._table.event_time, self._table.known_time))
        columns = ", ".join(f"{text} AS {quote(name)}" for name, text in self._picked.items())
        files = relation(self._scan, self._masks) if self._masks else FILES
        return f"""SELECT {columns}, {event} AS _event, {known} AS _known, {ORDER} AS _order{more}
                   FROM {files} WHERE {known} <= {self._until} AND {event} <= {self._until} AND {which}"""

    def _rows(self, found: pa.Table) -> Rows:
        event, known, order = (np.asarray(found[name].to_numpy(), dtype=np.int64) for name in ("_event", "_known", "_order"))
        visible, end = np.maximum(event, known), self._revised.ends(order)
        found = found.select(list(self._picked))
        alive = end > visible
        if not alive.all():
            event, known, visible, end, order = (a[alive] for a in (event, known, visible, end, order))
            found = found.filter(pa.array(alive))
        return Rows(event, known, visible, end, order, found, self._names)


def part_of(keys: Sequence[str], schema: pa.Schema, parts: int) -> str:
    """SQL that says in which of `parts` parts an entity is, whatever the width of its key's integers or texts."""
    return f"hash({', '.join(_plain(k, schema.field(k).type) for k in keys)}) % {parts}"


def _plain(key: str, kind: pa.DataType) -> str:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    cast = "::BIGINT" if pa.types.is_integer(kind) else "::VARCHAR" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""
    return quote(key) + cast


def spine_parts(db: duckdb.DuckDBPyConnection, spine: pa.Table, keys: Sequence[str], parts: int) -> Int64:
    """The part of each row of a spine."""
    chosen = spine.select(list(dict.fromkeys(keys)))
    db.register("spine", chosen)
    found = (
        db.sql(f"SELECT ({part_of(sorted(set(keys)), chosen.schema, parts)})::BIGINT AS part FROM spine")
        .to_arrow_table()["part"]
        .to_numpy()
    )
    db.unregister("spine")
    return np.asarray(found, dtype=np.int64)


def _empty(picked: dict[str, str], names: Mapping[Field | str, str], scan: Scan) -> Rows:
    none = np.zeros(0, dtype=np.int64)
    kinds = {n: pa.bool_() if isinstance(f, str) else _kind(f, scan) for f, n in names.items()}
    columns = {n: pa.array([], kinds[n] if n in kinds else scan.schema.field(n[2:]).type) for n in picked}
    return Rows(none, none, none, none, none, pa.table(columns), names)


def _kind(field: Field, scan: Scan) -> pa.DataType:
    return pa.float64() if field.form in ("number", "present") else scan.schema.field(field.column).type

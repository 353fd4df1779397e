"""From a scan to the rows that can ever count, each with the interval in which it does.

A row is active in `[visible, end)`: visible is the later of its two clocks, end is when the next revision of
its table key becomes known. DuckDB reads the files and finds the revisions; the kernels beside this file do
the rest on arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.fields import Field, check_types, conditions, expression, fields_of, plain_times, quote, refused
from tidemill.versioning.ports import Scan

FOREVER = np.iinfo(np.int64).max
"""The end of a row that nothing supersedes."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table, no order implied; `order` is the order of ingestion. All times in microseconds."""

    event: Int64
    known: Int64
    visible: Int64
    end: Int64
    order: Int64
    columns: pa.Table
    names: Mapping[Field | str, str]

    def numbers(self, field: Field) -> Float64:
        """A field as numbers, NaN where a row gives none."""
        return np.asarray(self.columns[self.names[field]].to_numpy(), dtype=np.float64)

    def values(self, field: Field) -> pa.Array:
        """A field's values, of the column's type."""
        return self.columns[self.names[field]].combine_chunks()

    def holds(self, where: str) -> npt.NDArray[np.bool_]:
        """Which rows a condition holds for."""
        return np.asarray(self.columns[self.names[where]].to_numpy(zero_copy_only=False), dtype=bool)


def check_columns(table: Table, scan: Scan, wanted: Iterable[str]) -> None:
    """Raise `InvalidError` for columns that the table lacks and for times without a zone."""
    names = set(scan.schema.names)
    if missing := sorted({c for c in (*wanted, table.event_time, table.known_time, *table.keys) if c not in names}):
        raise InvalidError(f"table {table.name!r} has no column {', '.join(missing)}; it has {', '.join(scan.schema.names)}")
    for name in (table.event_time, table.known_time):
        kind = scan.schema.field(name).type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise InvalidError(
                f"column {name!r} of table {table.name!r} is {kind}; it must be a timestamp with a time zone, for example timestamp[us, tz=UTC]"
            )


def load(db: duckdb.DuckDBPyConnection, scan: Scan, table: Table, views: Sequence[FeatureView], until_us: int) -> Rows:
    """Read what the views of one table need, as known at `until_us`."""
    fields = fields_of(views)
    wanted = conditions(fields)
    keys = sorted({k for v in views for k in v.keys})
    check_columns(table, scan, [*(f.column for f in fields if f.column), *keys])
    check_types(table, views, scan.schema)
    masks = {where: f"_w{i}" for i, where in enumerate(wanted)}
    names: dict[Field | str, str] = {f: f"f_{i}" for i, f in enumerate(fields)} | dict(masks)
    picked = {f"k_{k}": quote(k) for k in keys}
    picked |= {str(names[f]): expression(f, scan.schema, masks) for f in fields} | {name: name for name in masks.values()}
    if not scan.paths:
        return _empty(picked, names, scan)
    try:
        found = db.sql(query(table, scan, picked, until_us, where=masks), params=[list(scan.paths)]).to_arrow_table()
        if pc.any(found["_doubt"]).as_py():
            text = query(table, scan, picked, until_us, where=masks, distinct=True)
            found = db.sql(text, params=[list(scan.paths)]).to_arrow_table()
    except (duckdb.BinderException, duckdb.ParserException, duckdb.ConversionException) as error:
        raise refused(table, wanted, error) from error
    found = found.filter(pc.greater(found["_end"], found["_visible"]))
    event, known, visible, end, order = (found[f"_{name}"].to_numpy() for name in ("event", "known", "visible", "end", "order"))
    return Rows(event, known, visible, end, order, found, names)


def query(
    table: Table, scan: Scan, picked: dict[str, str], until_us: int, *, where: Mapping[str, str] | None = None, distinct: bool = False
) -> str:
    """The SQL that finds rows, ingestion order and revisions; one parameter, the list of files.

    `where` names a boolean column for each condition, for the expressions in `picked`. With `distinct`, rows that are equal in every
    column count once, as the first of them; `_doubt` marks rows that may need it.
    """
    event, known = (f"epoch_us({quote(c)}::TIMESTAMPTZ)" for c in (table.event_time, table.known_time))
    whole = ", ".join(quote(c) for c in scan.schema.names)
    columns = ", ".join(f"{expression} AS {quote(name)}" for name, expression in picked.items())
    key = "".join(f", {quote(k)} AS _key{i}" for i, k in enumerate(table.keys))
    same = f", hash({whole}) AS _same" if distinct else ""
    raw = f"""SELECT {columns}, {event} AS _event, {known} AS _known,
                     file_index::BIGINT * 1099511627776 + file_row_number AS _order{key}{same}
              FROM {_relation(scan, where or {})} WHERE {known} <= {until_us}"""
    once = (
        "SELECT * FROM raw QUALIFY row_number() OVER (PARTITION BY _known, _event, _same ORDER BY _order) = 1"
        if distinct
        else "SELECT * FROM raw"
    )
    end, doubt = str(FOREVER), "true"
    if table.keys:
        names = [f"_key{i}" for i in range(len(table.keys))]
        whole_key = " AND ".join(f"{n} IS NOT NULL" for n in names)
        following = f"lead(_known) OVER (PARTITION BY {', '.join(names)} ORDER BY _known, _order)"
        doubt = f"NOT ({whole_key}) OR _end = _known"
        end = f"CASE WHEN {whole_key} THEN coalesce({following}, {FOREVER}) ELSE {FOREVER} END"
    kept = ", ".join(quote(name) for name in picked)
    return f"""WITH raw AS ({raw}), once AS ({once}), revised AS (SELECT *, {end} AS _end FROM once)
               SELECT {kept}, _event, _known, greatest(_event, _known) AS _visible, _end::BIGINT AS _end, _order, {doubt} AS _doubt
               FROM revised WHERE _event IS NOT NULL"""


def _relation(scan: Scan, where: Mapping[str, str]) -> str:
    """The files, with a boolean column for each condition; a condition sees times as plain UTC, everything else as they are."""
    files = "read_parquet(?, union_by_name = true)"
    if not where:
        return files
    times = [f.name for f in scan.schema if pa.types.is_timestamp(f.type)]
    both = ", ".join(f"{quote(n)} AS {quote('_as_is_' + n)}" for n in times)
    place = "file_index, file_row_number" + (f", {both}" if both else "")
    held = ", ".join(f"coalesce(({text})::BOOLEAN, false) AS {name}" for text, name in where.items())
    own = ", ".join(f"{quote('_as_is_' + n)} AS {quote(n)}" if n in times else quote(n) for n in scan.schema.names)
    names = ", ".join(where.values())
    return f"""(SELECT {own}, file_index, file_row_number, {names}
                FROM (SELECT *, {held} FROM (SELECT {plain_times(scan.schema)}, {place} FROM {files})))"""


def _empty(picked: dict[str, str], names: Mapping[Field | str, str], scan: Scan) -> Rows:
    none = np.zeros(0, dtype=np.int64)
    kinds = {n: pa.bool_() if isinstance(f, str) else _kind(f, scan) for f, n in names.items()}
    columns = {n: pa.array([], kinds[n] if n in kinds else scan.schema.field(n[2:]).type) for n in picked}
    return Rows(none, none, none, none, none, pa.table(columns), names)


def _kind(field: Field, scan: Scan) -> pa.DataType:
    return pa.float64() if field.form in ("number", "present") else scan.schema.field(field.column).type

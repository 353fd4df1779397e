"""From a scan to the rows that can ever count, each with the interval in which it does.

A row is active in `[visible, end)`: visible is the later of its two clocks, end is when the next revision of
its table key becomes known. DuckDB reads the files and finds the revisions; the kernels beside this file do
the rest on arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
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

    def measure(self, column: str) -> Float64:
        """A column as numbers, NaN where it is null or not finite."""
        return np.asarray(self.columns[f"m_{column}"].to_numpy(), dtype=np.float64)


def quote(name: str) -> str:
    """Spell a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


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


def check_number(table: Table, scan: Scan, column: str) -> None:
    """Raise `InvalidError` unless the column can be averaged."""
    kind = scan.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind)):
        raise InvalidError(f"column {column!r} of table {table.name!r} is {kind}; only numbers can be aggregated (use latest())")


def load(db: duckdb.DuckDBPyConnection, scan: Scan, table: Table, views: Sequence[FeatureView], until_us: int) -> Rows:
    """Read what the views of one table need, as known at `until_us`."""
    aggregates = [a for v in views for a in v.aggregates]
    measures = sorted({a.column for a in aggregates if a.column and a.kind != "latest"})
    values = sorted({a.column for a in aggregates if a.column and a.kind == "latest"})
    keys = sorted({k for v in views for k in v.keys})
    check_columns(table, scan, [*measures, *values, *keys])
    for column in measures:
        check_number(table, scan, column)
    picked = {f"k_{k}": quote(k) for k in keys}
    picked |= {f"m_{c}": f"CASE WHEN isfinite({quote(c)}::DOUBLE) THEN {quote(c)}::DOUBLE END" for c in measures}
    picked |= {f"v_{c}": _value(c, scan) for c in values}
    if not scan.paths:
        return _empty(picked, scan)
    found = db.sql(query(table, scan, picked, until_us), params=[list(scan.paths)]).to_arrow_table()
    if pc.any(found["_doubt"]).as_py():
        found = db.sql(query(table, scan, picked, until_us, distinct=True), params=[list(scan.paths)]).to_arrow_table()
    found = found.filter(pc.greater(found["_end"], found["_visible"]))
    event, known, visible, end, order = (found[f"_{name}"].to_numpy() for name in ("event", "known", "visible", "end", "order"))
    return Rows(event, known, visible, end, order, found)


def query(table: Table, scan: Scan, picked: dict[str, str], until_us: int, *, distinct: bool = False) -> str:
    """The SQL that finds rows, ingestion order and revisions; one parameter, the list of files.

    With `distinct`, rows that are equal in every column count once, as the first of them; `_doubt` marks rows that may need it.
    """
    event, known = (f"epoch_us({quote(c)}::TIMESTAMPTZ)" for c in (table.event_time, table.known_time))
    whole = ", ".join(quote(c) for c in scan.schema.names)
    columns = ", ".join(f"{expression} AS {quote(name)}" for name, expression in picked.items())
    key = "".join(f", {quote(k)} AS _key{i}" for i, k in enumerate(table.keys))
    same = f", hash({whole}) AS _same" if distinct else ""
    raw = f"""SELECT {columns}, {event} AS _event, {known} AS _known,
                     file_index::BIGINT * 1099511627776 + file_row_number AS _order{key}{same}
              FROM read_parquet(?, union_by_name = true) WHERE {known} <= {until_us}"""
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


def _value(column: str, scan: Scan) -> str:
    name = quote(column)
    return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END" if pa.types.is_floating(scan.schema.field(column).type) else name


def _empty(picked: dict[str, str], scan: Scan) -> Rows:
    none = np.zeros(0, dtype=np.int64)
    columns = {n: pa.array([], pa.float64() if n.startswith("m_") else scan.schema.field(n[2:]).type) for n in picked}
    return Rows(none, none, none, none, none, columns=pa.table(columns))

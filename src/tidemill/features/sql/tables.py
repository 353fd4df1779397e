"""The part of a query that every view of a table shares: which row counts when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.core.definitions import FeatureView, Table
from tidemill.features.ports import AT
from tidemill.features.sql.engines import hashable, quote

FOREVER = 2**63 - 1
"""The end of a row that nothing supersedes."""
LARGEST = "1.7976931348623157E+308"
"""The greatest finite float64: NaN and infinity are beyond it in DuckDB and in Spark."""


@dataclass(frozen=True, slots=True)
class Step:
    """One named query of the whole, and what it does."""

    name: str
    told: str
    body: str


def key(name: str) -> str:
    """The column that holds an entity key."""
    return quote(f"k_{name}")


def measure(column: str) -> str:
    """The column that holds a number to aggregate, null where it is null or not finite."""
    return quote(f"m_{column}")


def value(column: str) -> str:
    """The column that holds a value as `latest` gives it."""
    return quote(f"v_{column}")


def table_steps(table: Table, views: Sequence[FeatureView], schema: pa.Schema) -> Iterator[Step]:
    """From the rows of a table to those that can ever count, each with the interval [_visible, _end) in which it does."""
    aggregates = [a for v in views for a in v.aggregates if a.column]
    keys = sorted({k for v in views for k in v.keys})
    measures = sorted({str(a.column) for a in aggregates if a.kind != "latest"})
    values = sorted({str(a.column) for a in aggregates if a.kind == "latest"})
    picked = [f"{quote(k)} AS {key(k)}" for k in keys]
    picked += [
        f"CASE WHEN ABS(CAST({quote(c)} AS DOUBLE)) <= {LARGEST} THEN CAST({quote(c)} AS DOUBLE) END AS {measure(c)}" for c in measures
    ]
    picked += [f"{_without_nan(c, schema)} AS {value(c)}" for c in values]
    kept = [key(k) for k in keys] + [measure(c) for c in measures] + [value(c) for c in values]
    yield _read(table, schema, picked)
    yield _once(table)
    yield _rows(table, kept)


def _read(table: Table, schema: pa.Schema, picked: list[str]) -> Step:
    event, known = (f"TM_MICROS({quote(c)})" for c in (table.event_time, table.known_time))
    whole = ", ".join(quote(f.name) if hashable(f) else f"MAP_ENTRIES({quote(f.name)})" for f in schema)
    identity = [f"{quote(k)} AS _key{i}" for i, k in enumerate(table.keys)]
    columns = ", ".join([*picked, *identity, f"{event} AS _event", f"{known} AS _known", "_order", f"TM_SAME({whole}) AS _same"])
    return Step(
        f"{table.name}_read",
        "what was known at all by the latest time asked for",
        f"SELECT {columns} FROM {quote(table.name)} WHERE {known} <= (SELECT MAX(TM_MICROS({quote(AT)})) FROM spine)",
    )


def _once(table: Table) -> Step:
    by = ", ".join([*(f"_key{i}" for i in range(len(table.keys))), "_known", "_event", "_same"])
    numbered = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY _order) AS _copy FROM {quote(table.name + '_read')}"
    return Step(f"{table.name}_once", "rows equal in every column count once", f"SELECT * FROM ({numbered}) AS n WHERE _copy = 1")


def _rows(table: Table, kept: list[str]) -> Step:
    end = str(FOREVER)
    if table.keys:
        names = [f"_key{i}" for i in range(len(table.keys))]
        alone = f"CASE WHEN {' OR '.join(f'{n} IS NULL' for n in names)} THEN _order END"
        end = f"COALESCE(LEAD(_known) OVER (PARTITION BY {', '.join(names)}, {alone} ORDER BY _known, _order), {FOREVER})"
    columns = ", ".join(kept)
    ended = f"SELECT *, {end} AS _end FROM {quote(table.name + '_once')}"
    return Step(
        f"{table.name}_rows",
        "each row counts from the later of its two clocks until the next revision of its key is known",
        f"SELECT {columns}, _event, _known, _order, GREATEST(_event, _known) AS _visible, _end FROM ({ended}) AS e "
        "WHERE _event IS NOT NULL AND GREATEST(_event, _known) < _end",
    )


def _without_nan(column: str, schema: pa.Schema) -> str:
    name = quote(column)
    return f"CASE WHEN ISNAN({name}) THEN NULL ELSE {name} END" if pa.types.is_floating(schema.field(column).type) else name

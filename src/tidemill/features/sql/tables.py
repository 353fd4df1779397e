"""The part of a query that every view of a table shares: which row counts when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as types

from tidemill.features.ports import AT
from tidemill.features.sql.engines import Engine, hashable, quote
from tidemill.features.sql.fields import Shape, condition, expression

FOREVER = 2**63 - 1
"""The end of a row that nothing supersedes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One named query of the whole, and what it does."""

    name: str
    told: str
    body: str


def key(name: str) -> str:
    """The column that holds an entity key."""
    return quote(f"k_{name}")


def table_steps(shape: Shape, engine: Engine) -> Iterator[Step]:
    """From the rows of a table to those that can ever count, each with the interval [_visible, _end) in which it does."""
    yield _read(shape, engine)
    yield _once(shape)
    yield _rows(shape)


def _read(shape: Shape, engine: Engine) -> Step:
    table, schema = shape.table, shape.schema
    aside = {f.name: quote(f"_as_is_{f.name}") for f in schema if types.is_timestamp(f.type)} if shape.masks else {}
    own = {name: aside.get(name, quote(name)) for name in schema.names}
    event, known = (f"TM_MICROS({own[c]})" for c in (table.event_time, table.known_time))
    whole = ", ".join(_hashed(f, own[f.name]) for f in schema)
    picked = [f"{own[k]} AS {key(k)}" for k in shape.keys]
    picked += [f"{expression(f, own.get(f.column, ''), schema, shape.masks)} AS {name}" for f, name in shape.fields.items()]
    picked += [*shape.masks.values(), *(f"{own[k]} AS _key{i}" for i, k in enumerate(table.keys))]
    columns = ", ".join([*picked, f"{event} AS _event", f"{known} AS _known", "_order", f"TM_SAME({whole}) AS _same"])
    until = f"(SELECT MAX(TM_MICROS({quote(AT)})) FROM spine)"
    return Step(
        f"{table.name}_read",
        "what was known at all by the latest time asked for",
        f"SELECT {columns} FROM {_source(shape, aside, engine)} WHERE {known} <= {until}",
    )


def _hashed(field: pa.Field, name: str) -> str:
    return name if hashable(field) else f"MAP_ENTRIES({name})"


def _source(shape: Shape, aside: dict[str, str], engine: Engine) -> str:
    """The table, with a boolean column for each condition; a condition sees times as plain UTC, everything else as they are."""
    if not shape.masks:
        return quote(shape.table.name)
    plain = [f"TM_PLAIN({quote(n)}) AS {quote(n)}, {quote(n)} AS {aside[n]}" if n in aside else quote(n) for n in shape.schema.names]
    held = [f"COALESCE(CAST(({condition(w, shape.table, engine)}) AS BOOLEAN), FALSE) AS {name}" for w, name in shape.masks.items()]
    return f"(SELECT *, {', '.join(held)} FROM (SELECT {', '.join(plain)}, _order FROM {quote(shape.table.name)}) AS p) AS t"


def _once(shape: Shape) -> Step:
    name = shape.table.name
    by = ", ".join([*(f"_key{i}" for i in range(len(shape.table.keys))), "_known", "_event", "_same"])
    numbered = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY _order) AS _copy FROM {quote(name + '_read')}"
    return Step(f"{name}_once", "rows equal in every column count once", f"SELECT * FROM ({numbered}) AS n WHERE _copy = 1")


def _rows(shape: Shape) -> Step:
    name, end = shape.table.name, str(FOREVER)
    if shape.table.keys:
        names = [f"_key{i}" for i in range(len(shape.table.keys))]
        alone = f"CASE WHEN {' OR '.join(f'{n} IS NULL' for n in names)} THEN _order END"
        end = f"COALESCE(LEAD(_known) OVER (PARTITION BY {', '.join(names)}, {alone} ORDER BY _known, _order), {FOREVER})"
    columns = ", ".join([*map(key, shape.keys), *shape.fields.values(), *shape.masks.values()])
    ended = f"SELECT *, {end} AS _end FROM {quote(name + '_once')}"
    return Step(
        f"{name}_rows",
        "each row counts from the later of its two clocks until the next revision of its key is known",
        f"SELECT {columns}, _event, _known, _order, GREATEST(_event, _known) AS _visible, _end FROM ({ended}) AS e "
        "WHERE _event IS NOT NULL AND GREATEST(_event, _known) < _end",
    )

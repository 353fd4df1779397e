"""The part of a query that every view of a table shares: which row counts when, and what it gives to which feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tidemill.core.definitions import FeatureView, Table
from tidemill.features.fields import Field, conditions, expression, fields_of, quote
from tidemill.features.ports import AT
from tidemill.features.sql.conditions import checked
from tidemill.features.sql.engines import hashable

FOREVER = 2**63 - 1
"""The end of a row that nothing supersedes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One named query of the whole, and what it does. `by`: the columns whose equal values a large engine had better keep together."""

    name: str
    told: str
    body: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """How the columns of a table's rows are called in the query."""

    table: Table
    fields: Sequence[Field]
    masks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Sequence[FeatureView]) -> Named:
        """The names for all views of one table."""
        fields = fields_of(views)
        return cls(views[0].table, fields, {where: f"_w{i}" for i, where in enumerate(conditions(fields))})

    def __call__(self, field: Field) -> str:
        """The column of a field: `m_delay`, or `m0_delay` under the first condition."""
        number = list(self.masks).index(field.where) if field.where else ""
        return quote(f"{_LETTERS[field.form]}{number}_{field.column}")


_LETTERS = {"number": "m", "value": "v", "present": "p", "newest": "n"}


def key(name: str) -> str:
    """The column that holds an entity key."""
    return quote(f"k_{name}")


def keys_of(view: FeatureView) -> str:
    """The entity's key columns, as a list."""
    return ", ".join(key(k) for k in view.keys)


def some_key(view: FeatureView) -> str:
    """The condition that a row names an entity of the view."""
    return " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)


def revised_steps(table: Table, schema: pa.Schema, masks: Mapping[str, str]) -> Iterator[Step]:
    """All rows of a table as they are, each with the interval [_visible, _end) in which it counts; for `explain`."""
    kept = [*map(quote, schema.names), *masks.values()]
    yield _read(table, schema, masks, kept, str(FOREVER))
    yield _once(table)
    yield _rows(table, kept, ())


def table_steps(named: Named, views: Sequence[FeatureView], schema: pa.Schema) -> Iterator[Step]:
    """From the rows of a table to those that can ever count for some views, each with the interval [_visible, _end) in which it does."""
    table = named.table
    keys = {key(k): quote(k) for k in sorted({k for v in views for k in v.keys})}
    picked = keys | {named(f): expression(f, schema, named.masks) for f in named.fields}
    picked |= {mask: mask for where, mask in named.masks.items() if any(f.form == "newest" and f.where == where for f in named.fields)}
    until = f"(SELECT MAX(TM_MICROS({quote(AT)})) FROM spine)"
    yield _read(table, schema, named.masks, [f"{text} AS {name}" for name, text in picked.items()], until)
    yield _once(table)
    yield _rows(table, list(picked), tuple(keys))


def _read(table: Table, schema: pa.Schema, masks: Mapping[str, str], picked: list[str], until: str) -> Step:
    event, known = (f"TM_MICROS({quote(c)})" for c in (table.event_time, table.known_time))
    whole = ", ".join(quote(f.name) if hashable(f) else f"MAP_ENTRIES({quote(f.name)})" for f in schema)
    identity = [f"{quote(k)} AS _key{i}" for i, k in enumerate(table.keys)]
    columns = ", ".join([*picked, *identity, f"{event} AS _event", f"{known} AS _known", "_order", f"TM_SAME({whole}) AS _same"])
    return Step(
        f"{table.name}_read",
        "what was known at all by the latest time asked for",
        f"SELECT {columns} FROM {_relation(table, schema, masks)} WHERE {known} <= {until}",
    )


def _relation(table: Table, schema: pa.Schema, masks: Mapping[str, str]) -> str:
    """The table, with a boolean column for each condition; a condition sees times as plain UTC, everything else as they are."""
    if not masks:
        return quote(table.name)
    times = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.tz]
    plain = ", ".join(f"TM_PLAIN({quote(n)}) AS {quote(n)}" if n in times else quote(n) for n in schema.names)
    both = "".join(f", {quote(n)} AS {quote('_as_is_' + n)}" for n in times)
    held = ", ".join(f"COALESCE(CAST(TM_WHERE(({checked(table, text)})) AS BOOLEAN), FALSE) AS {name}" for text, name in masks.items())
    own = ", ".join(f"{quote('_as_is_' + n)} AS {quote(n)}" if n in times else quote(n) for n in schema.names)
    inner = f"SELECT *, {held} FROM (SELECT {plain}, _order{both} FROM {quote(table.name)}) AS p"
    return f"(SELECT {own}, _order, {', '.join(masks.values())} FROM ({inner}) AS w) AS t"


def _once(table: Table) -> Step:
    by = ", ".join([*(f"_key{i}" for i in range(len(table.keys))), "_known", "_event", "_same"])
    numbered = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY _order) AS _copy FROM {quote(table.name + '_read')}"
    return Step(f"{table.name}_once", "rows equal in every column count once", f"SELECT * FROM ({numbered}) AS n WHERE _copy = 1")


def _rows(table: Table, kept: list[str], keys: tuple[str, ...]) -> Step:
    end = str(FOREVER)
    if table.keys:
        names = [f"_key{i}" for i in range(len(table.keys))]
        alone = f"CASE WHEN {' OR '.join(f'{n} IS NULL' for n in names)} THEN _order END"
        end = f"COALESCE(LEAD(_known) OVER (PARTITION BY {', '.join(names)}, {alone} ORDER BY _known, _order), {FOREVER})"
    ended = f"SELECT *, {end} AS _end FROM {quote(table.name + '_once')}"
    return Step(
        f"{table.name}_rows",
        "each row counts from the later of its two clocks until the next revision of its key is known",
        f"SELECT {', '.join(kept)}, _event, _known, _order, GREATEST(_event, _known) AS _visible, _end FROM ({ended}) AS e "
        "WHERE _event IS NOT NULL" + (" AND GREATEST(_event, _known) < _end" if keys else ""),
        keys,
    )

"""Whole queries: the point-in-time join of feature views with a spine, and the script that runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.ports import AT
from tidemill.features.sql import ends, items, sums
from tidemill.features.sql.engines import Engine, identifier, quote, render
from tidemill.features.sql.fields import Shape, shape
from tidemill.features.sql.formulas import formula
from tidemill.features.sql.sources import compile_source
from tidemill.features.sql.tables import Step, key, table_steps
from tidemill.versioning.ports import Scan

ZERO = ("count", "distinct")
"""Kinds that answer 0, not null, where there is nothing."""


def compile_join(views: Sequence[FeatureView], schemas: Mapping[str, pa.Schema], engine: Engine) -> str:
    """One query that appends the columns of `views` to a table `spine`, with the semantics of `OfflineStore.join`.

    It reads `spine` (the key columns and `at`, a timestamp with a time zone) and one relation per table of the views: the table's name,
    its columns and `_order`, a whole number that grows in the order of ingestion.

    Args:
        views: whose columns, in their order.
        schemas: columns of each table, by its name.
        engine: in whose dialect.

    Raises:
        InvalidError: a condition that is no SQL, or that the engine may answer otherwise than DuckDB.
    """
    steps: list[Step] = []
    shapes: dict[str, Shape] = {}
    for name in dict.fromkeys(v.table.name for v in views):
        mine = [v for v in views if v.table.name == name]
        shapes[name] = shape(mine[0].table, mine, schemas[name])
        steps += table_steps(shapes[name], engine)
    columns, joins = [], []
    for view in views:
        steps += _view_steps(view, shapes[view.table.name])
        equal = " AND ".join(f"spine.{quote(k)} = {quote(view.name)}.{key(k)}" for k in view.keys)
        joins.append(f"LEFT JOIN {quote(view.name)} ON {equal} AND TM_MICROS(spine.{quote(AT)}) = {quote(view.name)}._at")
        columns += _columns(view)
    body = f"SELECT spine.*, {', '.join(columns)} FROM spine {' '.join(joins)}"
    bodies = " ".join([*(s.body for s in steps), body])
    often = {s.name for s in steps if len(re.findall(rf'(?:FROM|JOIN) "{s.name}"', bodies)) > 1}
    written = ",\n\n".join(_written(s, engine, often=s.name in often) for s in steps)
    return f"WITH\n{written}\n\n{render(body, engine)}"


def script(view: FeatureView, scan: Scan, engine: Engine) -> str:
    """Statements that can be run as they are, once there is a table or view `spine`: where the view's rows are, then the join."""
    needed = ", ".join((*view.keys, f"{AT} (timestamp with time zone)"))
    head = f"-- Feature view {view.name!r} at the times of a table `spine` with {needed}; {engine}."
    zone = ["SET TIME ZONE 'UTC'"] if engine == "spark" else []
    statements = [*zone, *compile_source(scan, engine), compile_join([view], {view.table.name: scan.schema}, engine)]
    return head + "\n\n" + ";\n\n".join(statements) + ";\n"


def _written(step: Step, engine: Engine, *, often: bool) -> str:
    """A step as a common table expression; DuckDB is told to keep what is read several times."""
    kept = " MATERIALIZED" if often and engine == "duckdb" else ""
    inner = "\n".join("  " + line for line in render(step.body, engine).splitlines())
    return f"-- {step.told}\n{identifier(step.name, engine)} AS{kept} (\n{inner}\n)"


def _columns(view: FeatureView) -> list[str]:
    """The view's features as columns of the last query; expressions are spelled out there, after counts have become 0."""
    values: dict[str, str] = {}
    for a in view.aggregates:
        column = f"{quote(view.name)}.{quote(view.full_name(a))}"
        if a.kind == "expression":
            values[a.name] = formula(a.expression, values)
        else:
            values[a.name] = f"COALESCE({column}, 0)" if a.kind in ZERO else column
    return [f"{values[a.name]} AS {quote(view.full_name(a))}" for a in view.aggregates]


def _view_steps(view: FeatureView, shape: Shape) -> Iterator[Step]:
    """From a table's rows to one row per question (keys and time) with the view's columns."""
    keys = ", ".join(key(k) for k in view.keys)
    some = " AND ".join(f"{quote(k)} IS NOT NULL" for k in (*view.keys, AT))
    picked = ", ".join(f"{quote(k)} AS {key(k)}" for k in view.keys)
    yield Step(f"{view.name}_asked", "each question once", f"SELECT DISTINCT {picked}, TM_MICROS({quote(AT)}) AS _at FROM spine WHERE {some}")
    parts: list[str] = []
    values: dict[str, str] = {}

    def of(*kinds: str) -> list[Aggregate]:
        return [a for a in view.aggregates if a.kind in kinds]

    if wanted := sums.summed(view):
        yield from sums.sum_steps(view, shape, wanted)
        parts.append("sums")
        values |= {a.name: sums.feature(a, wanted) for a in of(*sums.KINDS)}
    if wide := ends.windows(view):
        yield from ends.end_steps(view, shape, wide)
        parts.append("ends")
        values |= {a.name: ends.feature(a, shape, wide) for a in of(*ends.KINDS)}
    for number, (group, mine) in enumerate(items.groups(view, shape)):
        yield from items.item_steps(view, number, group, mine)
        parts.append(f"items{number}")
        values |= {a.name: f"{quote(f'{view.name}_items{number}')}.{quote(a.name)}" for a in mine}
    wheres = ends.conditions(view)
    for number, where in enumerate(wheres):
        yield from ends.latest_steps(view, shape, number, where)
        parts.append(f"newest{number}")
    values |= {a.name: ends.latest_feature(a, shape, wheres) for a in of("latest")}
    columns = ", ".join(f"{values[a.name]} AS {quote(view.full_name(a))}" for a in view.aggregates if a.kind != "expression")
    joins = " ".join(f"LEFT JOIN {quote(f'{view.name}_{p}')} USING ({keys}, _at)" for p in parts)
    yield Step(view.name, f"the columns of feature view {view.name!r}", f"SELECT {keys}, _at, {columns} FROM {quote(view.name + '_asked')} {joins}")

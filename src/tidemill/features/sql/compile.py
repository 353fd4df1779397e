"""Whole queries: where rows are, and the point-in-time join of feature views with a spine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.core.aggregates import Aggregate, names_in
from tidemill.core.definitions import FeatureView
from tidemill.features.checks import check_types, is_number, not_a_number
from tidemill.features.fields import quote
from tidemill.features.ports import AT
from tidemill.features.sql import counted, newest, sums
from tidemill.features.sql.engines import Engine, render
from tidemill.features.sql.folds import KINDS as FOLDED
from tidemill.features.sql.folds import Folds
from tidemill.features.sql.formulas import formula
from tidemill.features.sql.sources import compile_source
from tidemill.features.sql.tables import Named, Step, key, keys_of, table_steps
from tidemill.versioning.ports import Scan

ZERO = frozenset({"count", "distinct"})
"""Kinds that answer 0, not null, where there is nothing."""


@dataclass(frozen=True, slots=True)
class Join:
    """A point-in-time join in the compiler's dialect: `steps`, each of which reads those before it, then the query `last`."""

    steps: tuple[Step, ...]
    last: str

    def often(self) -> frozenset[str]:
        """Names of steps that are read more than once."""
        whole = " ".join([*(s.body for s in self.steps), self.last])
        return frozenset(s.name for s in self.steps if len(re.findall(rf"(?:FROM|JOIN) {re.escape(quote(s.name))}", whole)) > 1)


def plan_join(views: Sequence[FeatureView], schemas: Mapping[str, pa.Schema]) -> Join:
    """The steps of a join; `compile_join` tells what it reads and gives.

    Raises:
        InvalidError: a feature of a column that it cannot be computed of.
    """
    steps: list[Step] = []
    columns: list[str] = []
    joins: list[str] = []
    for name in dict.fromkeys(v.table.name for v in views):
        mine = [v for v in views if v.table.name == name]
        check_types(mine[0].table, mine, schemas[name])
        named = Named.of(mine)
        steps += table_steps(named, mine, schemas[name])
        for view in mine:
            steps += _view_steps(view, named, schemas[name])
    for view in views:
        equal = " AND ".join(f"spine.{quote(k)} = {quote(view.name)}.{key(k)}" for k in view.keys)
        joins.append(f"LEFT JOIN {quote(view.name)} ON {equal} AND TM_MICROS(spine.{quote(AT)}) = {quote(view.name)}._at")
        columns += _columns(view, schemas[view.table.name])
    return Join(tuple(steps), f"SELECT spine.*, {', '.join(columns)} FROM spine {' '.join(joins)}")


def compile_join(views: Sequence[FeatureView], schemas: Mapping[str, pa.Schema], engine: Engine) -> str:
    """One query that appends the columns of `views` to a table `spine`, with the semantics of `OfflineStore.join`.

    It reads `spine` (the key columns and `at`, a timestamp with a time zone) and one relation per table of the views: the table's name,
    its columns and `_order`, a whole number that grows in the order of ingestion.

    Args:
        views: whose columns, in their order.
        schemas: columns of each table, by its name.
        engine: in whose dialect.

    Raises:
        InvalidError: a feature of a column that it cannot be computed of, or a condition that the engine may understand in another way.
    """
    join = plan_join(views, schemas)
    often = join.often()
    with_ = ",\n\n".join(_written(s, render(s.body, engine), engine, often=s.name in often) for s in join.steps)
    return f"WITH\n{with_}\n\n{render(join.last, engine)}"


def _written(step: Step, body: str, engine: Engine, *, often: bool) -> str:
    """A step as a common table expression; DuckDB is told to keep what is read several times."""
    name = render(f"SELECT {quote(step.name)}", engine).removeprefix("SELECT").strip()
    kept = " MATERIALIZED" if often and engine == "duckdb" else ""
    inner = "\n".join("  " + line for line in body.splitlines())
    return f"-- {step.told}\n{name} AS{kept} (\n{inner}\n)"


def _columns(view: FeatureView, schema: pa.Schema) -> Iterator[str]:
    """The view's columns for a row of the spine, of which the view may know nothing."""
    texts: dict[str, str] = {}
    for a in view.aggregates:
        name = quote(view.full_name(a))
        if a.kind == "expression":
            _check_formula(view, a, schema)
            texts[a.name] = formula(a, texts)
        else:
            texts[a.name] = f"COALESCE({quote(view.name)}.{name}, 0)" if a.kind in ZERO else f"{quote(view.name)}.{name}"
        yield f"{texts[a.name]} AS {name}"


def _check_formula(view: FeatureView, formula: Aggregate, schema: pa.Schema) -> None:
    by_name = {a.name: a for a in view.aggregates}
    for name in names_in(formula.expression):
        a = by_name[name]
        if a.kind in ("first", "last", "latest", "top") and not is_number(kind := schema.field(str(a.column)).type):
            raise not_a_number(view.full_name(formula), view.full_name(a), kind)


def _view_steps(view: FeatureView, named: Named, schema: pa.Schema) -> Iterator[Step]:
    """From a table's rows to one row per question (keys and time) with the view's columns, expressions left out."""
    keys = keys_of(view)
    some = " AND ".join(f"{quote(k)} IS NOT NULL" for k in (*view.keys, AT))
    picked = ", ".join(f"{quote(k)} AS {key(k)}" for k in view.keys)
    asked = f"SELECT DISTINCT {picked}, TM_MICROS({quote(AT)}) AS _at FROM spine WHERE {some}"
    yield Step(f"{view.name}_asked", "each question once", asked, tuple(key(k) for k in view.keys))
    parts, values, among = [], dict[str, str](), newest.groups(view, named)
    if wanted := sums.summed(view):
        yield from sums.sum_steps(view, named, wanted)
        parts.append("sums")
        values |= {a.name: sums.feature(a, wanted) for a in view.aggregates if a.kind in sums.KINDS}
    folds = Folds(view, named, among if view.table.keys else ())
    if folds.windows:
        yield from folds.steps()
        parts.append("folds")
        values |= {a.name: folds.feature(a) for a in view.aggregates if a.kind in FOLDED}
    if several := counted.counted(view):
        yield from counted.count_steps(view, named, several, schema)
        parts.append("counted")
        values |= {a.name: counted.feature(a, several, schema, view.table.name) for a in view.aggregates if a.kind in counted.KINDS}
    if among:
        yield from newest.lasting_steps(view, among)
        parts.append("lasting")
        values |= {a.name: newest.feature(a, named, among) for a in view.aggregates if a.kind == "latest"}
    columns = "".join(f", {values[a.name]} AS {quote(view.full_name(a))}" for a in view.aggregates if a.name in values)
    joins = " ".join(f"LEFT JOIN {quote(f'{view.name}_{p}')} USING ({keys}, _at)" for p in parts)
    found = f"SELECT *{''.join(f', {newest.newer(g, revised=bool(view.table.keys))}' for g in among)} FROM {quote(view.name + '_asked')} {joins}"
    yield Step(view.name, f"the columns of feature view {view.name!r}", f"SELECT {keys}, _at{columns} FROM ({found}) AS f")


def script(view: FeatureView, scan: Scan, engine: Engine) -> str:
    """Statements that can be run as they are, once there is a table or view `spine`: where the view's rows are, then the join."""
    needed = ", ".join((*view.keys, f"{AT} (timestamp with time zone)"))
    head = f"-- Feature view {view.name!r} at the times of a table `spine` with {needed}; {engine}."
    statements = [*compile_source(scan, engine), compile_join([view], {view.table.name: scan.schema}, engine)]
    return head + "\n\n" + ";\n\n".join(statements) + ";\n"

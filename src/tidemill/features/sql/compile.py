"""Whole queries: where rows are, and the point-in-time join of feature views with a spine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from tidemill.core.aggregates import Aggregate, spelled
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.ports import AT
from tidemill.features.sql import lives, sums
from tidemill.features.sql.engines import Engine, quote, render
from tidemill.features.sql.sources import compile_source
from tidemill.features.sql.tables import Step, key, table_steps
from tidemill.versioning.ports import Scan


def compile_join(views: Sequence[FeatureView], schemas: Mapping[str, pa.Schema], engine: Engine) -> str:
    """One query that appends the columns of `views` to a table `spine`, with the semantics of `OfflineStore.join`.

    It reads `spine` (the key columns and `at`, a timestamp with a time zone) and one relation per table of the views: the table's name,
    its columns and `_order`, a whole number that grows in the order of ingestion.

    Args:
        views: whose columns, in their order.
        schemas: columns of each table, by its name.
        engine: in whose dialect.

    Raises:
        InvalidError: a kind of feature that the engine cannot compute exactly as the embedded store does.
    """
    steps: list[Step] = []
    for name in dict.fromkeys(v.table.name for v in views):
        mine = [v for v in views if v.table.name == name]
        steps += table_steps(mine[0].table, mine, schemas[name])
    columns, joins = [], []
    for view in views:
        _refuse_unknown(view)
        steps += _view_steps(view)
        equal = " AND ".join(f"spine.{quote(k)} = {quote(view.name)}.{key(k)}" for k in view.keys)
        joins.append(f"LEFT JOIN {quote(view.name)} ON {equal} AND TM_MICROS(spine.{quote(AT)}) = {quote(view.name)}._at")
        columns += [_column(view, a) for a in view.aggregates]
    bodies = [render(s.body, engine) for s in steps]
    last = render(f"SELECT spine.*, {', '.join(columns)} FROM spine {' '.join(joins)}", engine)
    often = {s.name for s in steps if len(re.findall(rf'(?:FROM|JOIN) "{s.name}"', " ".join(t.body for t in steps))) > 1}
    with_ = ",\n\n".join(_written(s, body, engine, often=s.name in often) for s, body in zip(steps, bodies, strict=True))
    return f"WITH\n{with_}\n\n{last}"


def _refuse_unknown(view: FeatureView) -> None:
    for a in view.aggregates:
        known = a.kind in (*sums.KINDS, *lives.EXTREMES, "latest") and not a.where and not (a.kind == "count" and a.column)
        if not known:
            raise InvalidError(
                f"{view.full_name(a)} is {spelled(a)}, which the SQL compiler cannot write with equal values; use stack.offline: duckdb:memory"
            )


def _written(step: Step, body: str, engine: Engine, *, often: bool) -> str:
    """A step as a common table expression; DuckDB is told to keep what is read several times."""
    name = render(f"SELECT {quote(step.name)}", engine).removeprefix("SELECT").strip()
    kept = " MATERIALIZED" if often and engine == "duckdb" else ""
    inner = "\n".join("  " + line for line in body.splitlines())
    return f"-- {step.told}\n{name} AS{kept} (\n{inner}\n)"


def _column(view: FeatureView, aggregate: Aggregate) -> str:
    name = quote(view.full_name(aggregate))
    return f"COALESCE({quote(view.name)}.{name}, 0) AS {name}" if aggregate.kind == "count" else f"{quote(view.name)}.{name}"


def _view_steps(view: FeatureView) -> Iterator[Step]:
    """From a table's rows to one row per question (keys and time) with the view's columns."""
    keys = ", ".join(key(k) for k in view.keys)
    some = " AND ".join(f"{quote(k)} IS NOT NULL" for k in (*view.keys, AT))
    picked = ", ".join(f"{quote(k)} AS {key(k)}" for k in view.keys)
    yield Step(
        f"{view.name}_asked", "each question once", f"SELECT DISTINCT {picked}, TM_MICROS({quote(AT)}) AS _at FROM spine WHERE {some}"
    )
    parts: list[str] = []
    values: dict[str, str] = {}
    if wanted := sums.summed(view):
        yield from sums.sum_steps(view, wanted)
        parts.append("sums")
        values |= {a.name: sums.feature(a, wanted) for a in view.aggregates if a.kind in sums.KINDS}
    if windows := lives.extremes(view):
        yield from lives.extreme_steps(view, windows)
        parts.append("extremes")
        values |= {a.name: lives.extreme_feature(a, windows) for a in view.aggregates if a.kind in lives.EXTREMES}
    if any(a.kind == "latest" for a in view.aggregates):
        yield from lives.latest_steps(view)
        parts.append("latest")
        values |= {a.name: lives.latest_feature(a) for a in view.aggregates if a.kind == "latest"}
    columns = ", ".join(f"{values[a.name]} AS {quote(view.full_name(a))}" for a in view.aggregates)
    joins = " ".join(f"LEFT JOIN {quote(f'{view.name}_{p}')} USING ({keys}, _at)" for p in parts)
    yield Step(
        view.name, f"the columns of feature view {view.name!r}", f"SELECT {keys}, _at, {columns} FROM {quote(view.name + '_asked')} {joins}"
    )


def script(view: FeatureView, scan: Scan, engine: Engine) -> str:
    """Statements that can be run as they are, once there is a table or view `spine`: where the view's rows are, then the join."""
    needed = ", ".join((*view.keys, f"{AT} (timestamp with time zone)"))
    head = f"-- Feature view {view.name!r} at the times of a table `spine` with {needed}; {engine}."
    statements = [*compile_source(scan, engine), compile_join([view], {view.table.name: scan.schema}, engine)]
    return head + "\n\n" + ";\n\n".join(statements) + ";\n"

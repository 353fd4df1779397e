"""Counts, sums and means of windows, exact, by one running sum per view.

A row counts in a window while its *life* lasts: from when it becomes visible until it is superseded or leaves the window. So it is
two changes: its value comes in at the start of its life and goes out at the end, and the sum at a time is that of the changes made
by then. Sort, then one pass: (rows * windows + questions) log, whatever the windows are wide, and no join of rows with questions.

Differences of floats would lose what cancels. A number is therefore written as `_units * 2^(32 * _cell - 54)` with a whole `_units`, and
summed by cell as DECIMAL(38, 0), exactly; the few cells of a sum are put together at the end, from the greatest down, again exactly
until what is left cannot cancel any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.fields import Field, field_of
from tidemill.features.sql.tables import Named, Step, key, keys_of, some_key

KINDS = ("mean", "sum", "count")
_OCTAVES = "5.545177444479562"
"""ln(2^8): numbers are scaled by groups of 8 binary orders, four to a cell."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What is summed for a view: a field, or the rows themselves, over a window; `number` names it in the query."""

    number: int
    field: Field | None
    over_us: int
    hop_us: int


def summed(view: FeatureView) -> list[Sum]:
    """The sums that a view's features are made of, each once."""
    wanted = {(a.over_us, a.hop_us, field_of(a)) for a in view.aggregates if a.kind in KINDS}
    ordered = sorted(wanted, key=lambda w: (w[0], w[1], w[2] is not None, w[2] or Field("number", "", "")))
    return [Sum(i, field, over, hop) for i, (over, hop, field) in enumerate(ordered)]


def feature(aggregate: Aggregate, sums: Sequence[Sum]) -> str:
    """The value of a feature, from columns of the last step; null where there is none."""
    wanted = (aggregate.over_us, aggregate.hop_us, field_of(aggregate))
    number = next(s.number for s in sums if (s.over_us, s.hop_us, s.field) == wanted)
    if aggregate.kind == "count":
        return f"_n{number}"
    whole = f"_total{number}" if aggregate.kind == "sum" else f"_total{number} / _n{number}"
    return f"CASE WHEN _n{number} > 0 THEN {whole} END"


def floor(x: str, grid: str) -> str:
    """The greatest multiple of `grid` that is not above `x`, both whole; `%` truncates in SQL."""
    return f"({x} - ({x} % {grid} + {grid}) % {grid})"


def ceil(x: str, grid: str) -> str:
    """The least multiple of `grid` that is not below `x`, both whole."""
    return f"({x} + (-{x} % {grid} + {grid}) % {grid})"


def sum_steps(view: FeatureView, named: Named, sums: Sequence[Sum]) -> Iterator[Step]:
    """Steps that end in one row per question with `_n…` (how many) and `_total…` (their sum) of each sum."""
    keys = keys_of(view)
    yield Step(f"{view.name}_numbers", "numbers as whole units of 2^(32 cell - 54)", _numbers(view, named, sums, keys))
    yield Step(
        f"{view.name}_changes", "a value comes in when its row becomes visible and goes out at the end of its life", _changes(view, keys)
    )
    yield Step(f"{view.name}_running", "running sums, with the questions among the changes", _running(view, keys))
    yield Step(f"{view.name}_totals", "cells put together, the greatest first", _totals(view, keys))
    columns = ", ".join(f"MAX(CASE WHEN _sum = {s.number} THEN {c} END) AS {c}{s.number}" for s in sums for c in ("_n", "_total"))
    yield Step(f"{view.name}_sums", "one row per question", f'SELECT {keys}, _at, {columns} FROM "{view.name}_totals" GROUP BY {keys}, _at')


def _numbers(view: FeatureView, named: Named, sums: Sequence[Sum], keys: str) -> str:
    values = ", ".join(f"({s.number}, {s.over_us}, {s.hop_us})" for s in sums)
    cases = " ".join(f"WHEN {s.number} THEN {named(s.field)}" for s in sums if s.field)
    rows = ", ".join(str(s.number) for s in sums if not s.field)
    x = f"CASE s._sum {cases} END" if cases else "CAST(NULL AS DOUBLE)"
    stop = f"LEAST(_end, {ceil('_event', '_hop')} + _over)"
    lives = f'SELECT {keys}, _sum, _visible AS _start, {stop} AS _stop, {x} AS _x FROM "{view.table.name}_rows" CROSS JOIN (VALUES {values}) AS s(_sum, _over, _hop)'
    counted = f"_x IS NOT NULL OR _sum IN ({rows})" if rows else "_x IS NOT NULL"
    octave = f"CASE WHEN ABS(_x) > 0 THEN CAST(FLOOR(LN(ABS(_x)) / {_OCTAVES}) AS INT) ELSE 0 END"
    scaled = f"SELECT *, {octave} AS _octave FROM ({lives}) AS l WHERE _start < _stop AND ({counted}) AND {some_key(view)}"
    whole = f"SELECT *, CAST(FLOOR(_octave / 4.0) AS INT) AS _cell, CAST({shifted('_x', '54 - 8 * _octave')} AS BIGINT) AS _whole FROM ({scaled}) AS o"
    units = "CAST(_whole AS DECIMAL(19, 0)) * CAST(POWER(2, 8 * (_octave - 4 * _cell)) AS DECIMAL(9, 0))"
    return f"SELECT {keys}, _sum, _start, _stop, _cell, COALESCE({units}, 0) AS _units FROM ({whole}) AS w"


def shifted(x: str, by: str) -> str:
    """`x * 2^by` in two steps, since a power beyond the range of floats may meet a number at its other end."""
    return f"{x} * POWER(2, GREATEST(LEAST({by}, 900), -900)) * POWER(2, {by} - GREATEST(LEAST({by}, 900), -900))"


def _changes(view: FeatureView, keys: str) -> str:
    moment = "CASE WHEN _sign > 0 THEN _start ELSE _stop END"
    return f'SELECT {keys}, _sum, _cell, {moment} AS _at, _sign AS _n, CASE WHEN _sign > 0 THEN _units ELSE -_units END AS _units FROM "{view.name}_numbers" CROSS JOIN (VALUES (1), (-1)) AS c(_sign)'


def _running(view: FeatureView, keys: str) -> str:
    mine = ", ".join(f"c.{key(k)}" for k in view.keys)
    equal = " AND ".join(f"a.{key(k)} = c.{key(k)}" for k in view.keys)
    seen = f'SELECT DISTINCT {keys}, _sum, _cell FROM "{view.name}_changes"'
    both = (
        f'SELECT {keys}, _sum, _cell, _at, 0 AS _asked, _n, _units FROM "{view.name}_changes" UNION ALL '
        f'SELECT {mine}, c._sum, c._cell, a._at, 1, 0, 0 FROM "{view.name}_asked" AS a JOIN ({seen}) AS c ON {equal}'
    )
    frame = f"PARTITION BY {keys}, _sum, _cell ORDER BY _at, _asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    sums = f"SUM(_n) OVER ({frame}) AS _n, SUM(_units) OVER ({frame}) AS _units"
    return f"SELECT {keys}, _sum, _cell, _at, _n, _units FROM (SELECT {keys}, _sum, _cell, _at, _asked, {sums} FROM ({both}) AS b) AS r WHERE _asked = 1"


def _totals(view: FeatureView, keys: str) -> str:
    """Horner's rule over the cells while it fits; then the rest is too small to cancel and is added as it is."""
    gap = "x.below - s.below"
    limit = f"CASE {gap} WHEN 1 THEN CAST(1e28 AS DECIMAL(38, 0)) WHEN 2 THEN CAST(1e18 AS DECIMAL(38, 0)) WHEN 3 THEN CAST(1e8 AS DECIMAL(38, 0)) ELSE CAST(0 AS DECIMAL(38, 0)) END"
    factor = f"CASE {gap} {' '.join(f'WHEN {n} THEN CAST({2 ** (32 * n)} AS DECIMAL(38, 0))' for n in (1, 2, 3))} END"
    fits = f"s.units = 0 OR ABS(s.units) < {limit}"
    units = f"CASE WHEN s.units = 0 THEN x.units WHEN ABS(s.units) < {limit} THEN CAST(s.units * {factor} + x.units AS DECIMAL(38, 0)) ELSE s.units END"
    rest = f"CASE WHEN {fits} THEN s.rest ELSE s.rest + {shifted('CAST(x.units AS DOUBLE)', '-32 * x.below - 54')} END"
    below = f"CASE WHEN {fits} THEN x.below ELSE s.below END"
    cells = "LIST_SORT(LIST({'below': -_cell, 'units': CAST(_units AS DECIMAL(38, 0))}) FILTER (WHERE _units <> 0))"
    start = "{'units': CAST(0 AS DECIMAL(38, 0)), 'below': 0, 'rest': CAST(0 AS DOUBLE)}"
    fold = f"TM_FOLD({cells}, {start}, LAMBDA s, x : {{'units': {units}, 'below': {below}, 'rest': {rest}}})"
    folded = f'SELECT {keys}, _at, _sum, SUM(_n) AS _n, {fold} AS _f FROM "{view.name}_running" GROUP BY {keys}, _at, _sum'
    total = f"{shifted('CAST(_f.units AS DOUBLE)', '-32 * _f.below - 54')} + _f.rest"
    return f"SELECT {keys}, _at, _sum, _n, COALESCE({total}, 0.0) AS _total FROM ({folded}) AS f"

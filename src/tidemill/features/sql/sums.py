"""Counts, sums, means and deviations of windows, exact, by one running sum per view.

A row counts in a window while its *life* lasts: from when it becomes visible until it is superseded or leaves the window. So it is
two changes: its value comes in at the start of its life and goes out at the end, and the sum at a time is that of the changes made
by then. Sort, then one pass: (rows * windows + questions) log, whatever the windows are wide, and no join of rows with questions.

Differences of floats would lose what cancels. A number is therefore written as a whole number of units of 2^(32 cell - 54), its square
(in three parts) in units of 2^(32 cell - 108), and both are summed by cell as DECIMAL(38, 0), exactly. The few cells of a sum are put
together at the end (`fold`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.sql.arithmetic import leaves, shifted, whole
from tidemill.features.sql.fields import Field, Shape, field_of
from tidemill.features.sql.tables import Step, key

KINDS = ("mean", "sum", "count", "std")
_OCTAVE = "5.545177444479562E0"
"""ln(2^8): numbers are scaled by groups of 8 binary orders."""
_SPLIT = 2**31


@dataclass(frozen=True, slots=True)
class Sum:
    """What is summed for a view: a field (or rows) over a window; `number` names it in the query. `squares`: those of its values too."""

    number: int
    field: Field | None
    over_us: int
    hop_us: int
    squares: bool


def summed(view: FeatureView) -> list[Sum]:
    """The sums that a view's features are made of, each once."""
    mine = [a for a in view.aggregates if a.kind in KINDS]
    wanted = dict.fromkeys((a.over_us, a.hop_us, field_of(a)) for a in mine)
    squared = {(a.over_us, a.hop_us, field_of(a)) for a in mine if a.kind == "std"}
    return [Sum(i, w[2], w[0], w[1], w in squared) for i, w in enumerate(wanted)]


def feature(a: Aggregate, sums: Sequence[Sum]) -> str:
    """The value of a feature, from columns of the last step; null where there is none."""
    number = next(s.number for s in sums if (s.over_us, s.hop_us, s.field) == (a.over_us, a.hop_us, field_of(a)))
    if a.kind == "count":
        return f"_n{number}"
    if a.kind == "std":
        return f"CASE WHEN _n{number} > 1 THEN COALESCE(_spread{number}, CAST(0 AS DOUBLE)) END"
    total = f"_total{number}" if a.kind == "sum" else f"_total{number} / _n{number}"
    return f"CASE WHEN _n{number} > 0 THEN {total} END"


def sum_steps(view: FeatureView, shape: Shape, sums: Sequence[Sum]) -> Iterator[Step]:
    """Steps that end in one row per question with `_n…` (how many), `_total…` and, for squares, `_spread…` (deviation) of each sum."""
    keys = ", ".join(key(k) for k in view.keys)
    squares = [s for s in sums if s.squares]
    yield Step(f"{view.name}_lives", "when each number counts, as 62 bits and a scale", _lives(view, shape, sums, keys))
    yield Step(f"{view.name}_changes", "in when its row becomes visible, out at the end of its life", _changes(view, keys, squares))
    yield Step(f"{view.name}_running", "running sums, with the questions among the changes", _running(view, keys))
    yield Step(f"{view.name}_totals", "cells put together, the greatest first", _totals(view, keys))
    parts = f'SELECT {keys}, _at, _sum, _n, _total, CAST(NULL AS DOUBLE) AS _spread FROM "{view.name}_totals"'
    if squares:
        yield Step(f"{view.name}_digits", "exact sums in digits of 32 bits", _digits(view, keys, squares))
        yield Step(f"{view.name}_spreads", "n * sum of squares - square of the sum, exact", _spreads(view, keys))
        parts += f' UNION ALL SELECT {keys}, _at, _sum, NULL, NULL, _spread FROM "{view.name}_spreads"'
    columns = ", ".join(f"MAX(CASE WHEN _sum = {s.number} THEN {c} END) AS {c}{s.number}" for s in sums for c in _columns(s))
    yield Step(f"{view.name}_sums", "one row per question", f"SELECT {keys}, _at, {columns} FROM ({parts}) AS p GROUP BY {keys}, _at")


def _columns(s: Sum) -> tuple[str, ...]:
    return ("_n", "_total", "_spread") if s.squares else ("_n", "_total")


def _lives(view: FeatureView, shape: Shape, sums: Sequence[Sum], keys: str) -> str:
    values = ", ".join(f"({s.number}, {s.over_us}, {s.hop_us})" for s in sums)
    numbers = " ".join(f"WHEN {s.number} THEN {shape.fields[s.field]}" for s in sums if s.field and s.field.form == "number")
    there = " ".join(f"WHEN {s.number} THEN {shape.fields[s.field]} IS NOT NULL" for s in sums if s.field)
    x = f"CASE s._sum {numbers} END" if numbers else "CAST(NULL AS DOUBLE)"
    counted = f"CASE s._sum {there} ELSE TRUE END" if there else "TRUE"
    some = " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)
    lives = (
        f"SELECT {keys}, _sum, _visible AS _start, LEAST(_end, {leaves('_over', '_hop')}) AS _stop, {x} AS _x "
        f'FROM "{shape.table.name}_rows" CROSS JOIN (VALUES {values}) AS s(_sum, _over, _hop) WHERE {counted} AND {some}'
    )
    octave = f"CASE WHEN ABS(_x) > 0 THEN CAST(FLOOR(LN(ABS(_x)) / {_OCTAVE}) AS INT) ELSE 0 END"
    scaled = f"SELECT *, {octave} AS _octave FROM ({lives}) AS l WHERE _start < _stop"
    return f"SELECT {keys}, _sum, _start, _stop, 8 * _octave AS _scale, COALESCE(CAST({shifted('_x', '54 - 8 * _octave')} AS BIGINT), 0) AS _whole FROM ({scaled}) AS o"


def _changes(view: FeatureView, keys: str, squares: Sequence[Sum]) -> str:
    """Part 0 is the number, parts 1 to 3 are its square: (high * 2^31 + low)^2."""
    part, scale, only, parts = "_whole", "_scale", "", "(0)"
    if squares:
        high, low = "(ABS(_whole) >> 31)", f"(ABS(_whole) % {_SPLIT})"
        part = f"CASE _part WHEN 0 THEN _whole WHEN 1 THEN {low} * {low} WHEN 2 THEN 2 * {high} * {low} ELSE {high} * {high} END"
        scale = "CASE _part WHEN 0 THEN _scale ELSE 2 * _scale + 31 * (_part - 1) END"
        numbers = ", ".join(str(s.number) for s in squares)
        only, parts = f" WHERE _part = 0 OR (_sum IN ({numbers}) AND _whole <> 0)", "(0), (1), (2), (3)"
    cut = f'SELECT {keys}, _sum, _start, _stop, LEAST(_part, 1) AS _squared, {part} AS _whole, {scale} AS _scale FROM "{view.name}_lives" CROSS JOIN (VALUES {parts}) AS p(_part){only}'
    celled = f"SELECT *, CAST(FLOOR(_scale / 32.0) AS INT) AS _cell FROM ({cut}) AS c"
    units = "CAST(_whole AS DECIMAL(19, 0)) * CAST(POWER(2, _scale - 32 * _cell) AS DECIMAL(10, 0))"
    return (
        f"SELECT {keys}, _sum, _squared, _cell, CASE WHEN _sign > 0 THEN _start ELSE _stop END AS _at, _sign AS _n, "
        f"CASE WHEN _sign > 0 THEN {units} ELSE -({units}) END AS _units FROM ({celled}) AS d CROSS JOIN (VALUES (1), (-1)) AS e(_sign)"
    )


def _running(view: FeatureView, keys: str) -> str:
    mine = ", ".join(f"c.{key(k)}" for k in view.keys)
    equal = " AND ".join(f"a.{key(k)} = c.{key(k)}" for k in view.keys)
    seen = f'SELECT DISTINCT {keys}, _sum, _squared, _cell FROM "{view.name}_changes"'
    both = (
        f'SELECT {keys}, _sum, _squared, _cell, _at, 0 AS _asked, _n, _units FROM "{view.name}_changes" UNION ALL '
        f'SELECT {mine}, c._sum, c._squared, c._cell, a._at, 1, 0, 0 FROM "{view.name}_asked" AS a JOIN ({seen}) AS c ON {equal}'
    )
    frame = f"PARTITION BY {keys}, _sum, _squared, _cell ORDER BY _at, _asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    sums = f"SUM(_n) OVER ({frame}) AS _n, CAST(SUM(_units) OVER ({frame}) AS DECIMAL(38, 0)) AS _units"
    return f"SELECT {keys}, _sum, _squared, _cell, _at, _n, _units FROM (SELECT {keys}, _sum, _squared, _cell, _at, _asked, {sums} FROM ({both}) AS b) AS r WHERE _asked = 1"


def _totals(view: FeatureView, keys: str) -> str:
    folded = f'SELECT {keys}, _at, _sum, SUM(_n) AS _n, {fold("_cell", "_units")} AS _f FROM "{view.name}_running" WHERE _squared = 0 GROUP BY {keys}, _at, _sum'
    total = shifted("(CAST(_f.units AS DOUBLE) + _f.rest)", "-32 * _f.below - 54")
    return f"SELECT {keys}, _at, _sum, _n, COALESCE({total}, 0.0) AS _total FROM ({folded}) AS f"


def fold(cell: str, units: str) -> str:
    """Cells put together: a sum of `units * 2^(32 cell)` as a struct, whose value is `(units + rest) * 2^(-32 below)`.

    Horner's rule over the cells, the greatest first, in whole numbers as long as they fit. Then what is left is too small to cancel and
    is added as a float. So the result is near to its last bits whatever cancels: units of a cell are below 2^95 times how many there are.
    """
    gap = "x.below - s.below"
    fitting = " ".join(f"WHEN {n} THEN {whole(limit)}" for n, limit in ((0, 5 * 10**37), (1, 10**28), (2, 10**18), (3, 10**8)))
    fits = f"s.units = 0 OR ABS(s.units) < CASE {gap} {fitting} ELSE {whole(0)} END"
    factor = f"CASE {gap} {' '.join(f'WHEN {n} THEN {whole(2 ** (32 * n))}' for n in range(4))} END"
    more = f"CASE WHEN s.units = 0 THEN x.units WHEN {fits} THEN CAST(s.units * {factor} + x.units AS DECIMAL(38, 0)) ELSE s.units END"
    rest = f"CASE WHEN {fits} THEN s.rest ELSE s.rest + CAST(x.units AS DOUBLE) * POWER(2, -32 * ({gap})) END"
    below = f"CASE WHEN {fits} THEN x.below ELSE s.below END"
    cells = f"LIST_SORT(LIST({{'below': -{cell}, 'units': CAST({units} AS DECIMAL(38, 0))}}) FILTER (WHERE {units} <> 0))"
    start = "{'units': CAST(0 AS DECIMAL(38, 0)), 'below': 0, 'rest': CAST(0 AS DOUBLE)}"
    return f"TM_FOLD({cells}, {start}, LAMBDA s, x : {{'units': {more}, 'below': {below}, 'rest': {rest}}})"


def _digits(view: FeatureView, keys: str, squares: Sequence[Sum]) -> str:
    numbers = ", ".join(str(s.number) for s in squares)
    up = f"CASE _digit {' '.join(f'WHEN {i} THEN _units % {whole(2 ** (32 * (i + 1)))}' for i in range(3))} ELSE _units END"
    down = f"CASE _digit {' '.join(f'WHEN {i} THEN _units % {whole(2 ** (32 * i))}' for i in range(1, 4))} ELSE {whole(0)} END"
    digit = f"CAST(CAST({up} - {down} AS DOUBLE) / POWER(2, 32 * _digit) AS BIGINT)"
    cut = f'SELECT {keys}, _at, _sum, _squared, _cell + _digit AS _cell, {digit} AS _value FROM "{view.name}_running" CROSS JOIN (VALUES (0), (1), (2), (3)) AS d(_digit) WHERE _sum IN ({numbers})'
    return f"SELECT {keys}, _at, _sum, _squared, _cell, CAST(SUM(_value) AS DECIMAL(19, 0)) AS _value FROM ({cut}) AS c WHERE _value <> 0 GROUP BY {keys}, _at, _sum, _squared, _cell"


def _spreads(view: FeatureView, keys: str) -> str:
    mine = ", ".join(f"a.{key(k)}" for k in view.keys)
    equal = " AND ".join([*(f"a.{key(k)} = b.{key(k)}" for k in view.keys), "a._at = b._at", "a._sum = b._sum"])
    digits, totals = f'"{view.name}_digits"', f'"{view.name}_totals"'
    terms = (
        f"SELECT {mine}, a._at, a._sum, a._cell + b._cell AS _cell, -(a._value * b._value) AS _units FROM {digits} AS a JOIN {digits} AS b "
        f"ON {equal} WHERE a._squared = 0 AND b._squared = 0 UNION ALL "
        f"SELECT {mine}, a._at, a._sum, a._cell, a._value * CAST(b._n AS DECIMAL(19, 0)) FROM {digits} AS a JOIN {totals} AS b ON {equal} WHERE a._squared = 1"
    )
    celled = f"SELECT {keys}, _at, _sum, _cell, CAST(SUM(_units) AS DECIMAL(38, 0)) AS _units FROM ({terms}) AS t GROUP BY {keys}, _at, _sum, _cell"
    folded = f"SELECT {keys}, _at, _sum, {fold('_cell', '_units')} AS _f FROM ({celled}) AS c GROUP BY {keys}, _at, _sum"
    both = f'SELECT f.*, t._n FROM ({folded}) AS f JOIN "{view.name}_totals" AS t USING ({keys}, _at, _sum) WHERE _n > 1'
    root = "SQRT((CAST(_f.units AS DOUBLE) + _f.rest) / (CAST(_n AS DOUBLE) * (_n - 1)))"
    return f"SELECT {keys}, _at, _sum, COALESCE({shifted(root, '-16 * _f.below - 54')}, 0.0) AS _spread FROM ({both}) AS g"

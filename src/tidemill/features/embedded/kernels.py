"""Questions that a feature asks of its rows: sums over a window, extremes over a window, the newest row.

All work on arrays for many queries at once, and none looks at a row before it is visible or after it is superseded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidemill.features.embedded.exact import BITS, bits_for, deviation, join, split, split_squares, whole
from tidemill.features.embedded.source import FOREVER, Float64, Int64
from tidemill.features.embedded.timeline import Timeline, accumulate, expand, untied

_PAIRS = 4_000_000


@dataclass(frozen=True, slots=True)
class Keyed:
    """Rows of one view with the code of their entity; all arrays of one length."""

    code: Int64
    event: Int64
    known: Int64
    visible: Int64
    end: Int64
    order: Int64
    codes: int


@dataclass(frozen=True, slots=True)
class Queries:
    """Spine rows: the code of their entity (no -1) and their time, sorted by both, so that searching goes from left to right."""

    code: Int64
    at: Int64


@dataclass(frozen=True, slots=True)
class Summed:
    """Exact sums of many queries: how many values, their sum and that of their squares in parts (see `exact.split`)."""

    count: Int64
    parts: list[Int64]
    squares: list[Int64]
    base: int
    bits: int

    def total(self) -> Float64:
        """The sums, rounded once."""
        return join(self.parts, self.base, self.bits)

    def deviation(self) -> Float64:
        """Standard deviations with n - 1; NaN for fewer than two values."""
        answer = np.full(len(self.count), np.nan)
        some = np.flatnonzero(self.count > 1)
        sums, squares = whole([p[some] for p in self.parts]), whole([p[some] for p in self.squares])
        for place, n, one, two in zip(some.tolist(), self.count[some].tolist(), sums.tolist(), squares.tolist(), strict=True):
            answer[place] = deviation(n, one, two, self.base)
        return answer


class Sums:
    """Row counts, and counts and exact sums of non-null values, over any window of one view.

    Nearly all rows are *punctual*: they count from the moment of their event and for ever, so those of a window are neighbours in one
    line. Any other row is two *changes*: its values come in when it becomes visible and go out when it is superseded, both under its
    event time. The window (lo, t] at t holds the changes made by t, less those of events up to lo. The latter are looked up by event
    time alone, which also counts changes made after t; those have waited for longer than the window is wide, are few, and are put back.
    """

    def __init__(self, rows: Keyed, measures: Sequence[Float64], squared: Collection[int] = ()) -> None:
        """`measures`: a column of numbers each, NaN for none; `squared`: places of those whose squares are summed as well."""
        self._codes = rows.codes
        self._columns: list[_Measure] = []
        columns: list[Int64 | None] = [None]
        for i, values in enumerate(measures):
            bits = BITS if i in squared else bits_for(len(values))
            parts, base = split(values, bits)
            squares = split_squares(parts, base)[0] if i in squared else []
            there = ~np.isnan(values)
            columns += [None if there.all() else there.astype(np.int64), *parts, *squares]
            self._columns.append(_Measure(len(parts), len(squares), base, bits))
        regular = punctual(rows)
        self._line, self._line_sums = _line(rows, regular, columns)
        odd = np.flatnonzero(~regular)
        out = odd[rows.end[odd] != FOREVER]
        self._code = np.concatenate([rows.code[odd], rows.code[out]])
        self._event = np.concatenate([rows.event[odd], rows.event[out]])
        self._made = np.concatenate([rows.visible[odd], rows.end[out]])
        signs = np.concatenate([np.ones(len(odd), dtype=np.int64), -np.ones(len(out), dtype=np.int64)])
        both = np.concatenate([odd, out])
        self._changes = [signs if c is None else c[both] * signs for c in columns]
        self._by_made = Timeline(self._code, self._made, rows.codes)
        self._by_event = Timeline(self._code, self._event, rows.codes)
        self._made_sums = [_prefix(c, self._by_made.order) for c in self._changes]
        self._event_sums = [_prefix(c, self._by_event.order) for c in self._changes]

    def window(self, queries: Queries, over: int, hop: int) -> list[Summed]:
        """Per query: the number of rows, then for each measure its non-null values, their sum and what their deviation needs."""
        low = (queries.at - over) // hop * hop
        left, right = self._line.find(queries.code, low), self._line.find(queries.code, queries.at)
        found = [right - left if s is None else s[right] - s[left] for s in self._line_sums]
        if len(self._code):
            until, from_ = self._by_made.find(queries.code, queries.at), self._by_event.find(queries.code, low)
            made, old = self._by_made.start(queries.code), self._by_event.start(queries.code)
            for sums, m, e in zip(found, self._made_sums, self._event_sums, strict=True):
                sums += m[until] - m[made] - e[from_] + e[old]
            self._put_back(found, queries, low, over)
        answer = [Summed(found[0], [], [], 0, BITS)]
        at = 1
        for measure in self._columns:
            squares = at + 1 + measure.parts
            end = squares + measure.squares
            answer.append(Summed(found[at], found[at + 1 : squares], found[squares:end], measure.base, measure.bits))
            at = end
        return answer

    def _put_back(self, found: list[Int64], queries: Queries, low: Int64, over: int) -> None:
        late = np.flatnonzero(self._made - self._event > over)
        if not len(late):
            return
        line = Timeline(self._code[late], self._event[late], self._codes)
        late = late[line.order]
        left, right = line.start(queries.code), line.find(queries.code, low)
        some = np.flatnonzero(left < right)
        left, right, at = left[some], right[some], queries.at[some]
        columns = [c[late] for c in self._changes]
        for sums, column, known in zip(found, columns, accumulate(left, right, at, self._made[late], columns, np.add, 0), strict=True):
            prefix = np.concatenate([[0], np.cumsum(column)])
            sums[some] += prefix[right] - prefix[left] - known


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a measure is summed: its columns of parts and of squares, and what they stand for."""

    parts: int
    squares: int
    base: int
    bits: int


def punctual(rows: Keyed) -> npt.NDArray[np.bool_]:
    """Which rows count from their event time on, and for ever."""
    return np.asarray((rows.visible == rows.event) & (rows.end == FOREVER))


def _line(rows: Keyed, regular: npt.NDArray[np.bool_], columns: Sequence[Int64 | None]) -> tuple[Timeline, list[Int64 | None]]:
    """Punctual rows by event time, with running sums; None where every row counts one."""
    picked = np.flatnonzero(regular)
    line = Timeline(rows.code[picked], rows.event[picked], rows.codes)
    order = picked[line.order]
    return line, [None if c is None else _prefix(c, order) for c in columns]


def _prefix(changes: Int64, order: Int64) -> Int64:
    return np.concatenate([[0], np.cumsum(changes[order])])


def extremes(rows: Keyed, values: Float64, queries: Queries, over: int, hop: int, *, least: bool) -> Float64:
    """Least or greatest non-null value in the window, NaN where there is none."""
    operation, identity = (np.minimum, np.inf) if least else (np.maximum, -np.inf)
    low = (queries.at - over) // hop * hop
    there = ~np.isnan(values)
    regular = punctual(rows)
    picked = np.flatnonzero(there & regular)
    line = Timeline(rows.code[picked], rows.event[picked], rows.codes)
    left, right = line.find(queries.code, low), line.find(queries.code, queries.at)
    result = _of_ranges(values[picked[line.order]], left, right, operation, identity)
    lasting = np.flatnonzero((rows.end == FOREVER) & there & ~regular)
    if len(lasting):
        line = Timeline(rows.code[lasting], rows.event[lasting], rows.codes)
        kept = lasting[line.order]
        left, right = line.find(queries.code, low), line.find(queries.code, queries.at)
        result = operation(result, accumulate(left, right, queries.at, rows.visible[kept], [values[kept]], operation, identity)[0])
    passing = np.flatnonzero((rows.end != FOREVER) & there)
    if len(passing):
        line = Timeline(rows.code[passing], rows.event[passing], rows.codes)
        kept = passing[line.order]
        visible, end, value = rows.visible[kept], rows.end[kept], values[kept]

        def visit(query: Int64, position: Int64) -> None:
            at = queries.at[query]
            active = (visible[position] <= at) & (at < end[position])
            operation.at(result, query[active], value[position[active]])

        expand(line.find(queries.code, low), line.find(queries.code, queries.at), _PAIRS, visit)
    return np.where(np.isinf(result), np.nan, result)


def _of_ranges(values: Float64, left: Int64, right: Int64, operation: np.ufunc, identity: float) -> Float64:
    """Least or greatest of `values[left:right]` for each query, by a table of powers of two, of which one level at a time is kept."""
    result = np.full(len(left), identity)
    width = right - left
    level = np.frexp(width.astype(np.float64))[1] - 1  # floor of the logarithm
    table = values
    for k in range(int(level.max(initial=-1)) + 1):
        if k:
            table = operation(table[: -(1 << (k - 1))], table[1 << (k - 1) :])
        take = np.flatnonzero((level == k) & (width > 0))
        result[take] = operation(table[left[take]], table[right[take] - (1 << k)])
    return result


def ranks(rows: Keyed) -> tuple[Int64, Int64]:
    """Rows by (entity, event, known, order), and the place of each row in that order."""
    ranked = untied(Timeline(rows.code, rows.event, rows.codes), (rows.known, rows.order))
    rank = np.empty_like(ranked)
    rank[ranked] = np.arange(len(ranked))
    return ranked, rank


def ends(rows: Keyed, queries: Queries, over: int, hop: int, *, oldest: bool) -> Int64:
    """Index of the first or the last active row in the window of each query, -1 where there is none."""
    if not len(rows.code):
        return np.full(len(queries.at), -1, dtype=np.int64)
    ranked, rank = ranks(rows)
    found = extremes(rows, rank.astype(np.float64), queries, over, hop, least=oldest)
    none = np.isnan(found)
    return np.where(none, -1, ranked[np.where(none, 0, found).astype(np.int64)])


def newest(rows: Keyed, queries: Queries, ttl: int) -> Int64:
    """Index of the active row with the greatest (event, known, order) of each query, -1 where there is none or it is older than `ttl`."""
    best = np.full(len(queries.at), -1, dtype=np.int64)
    if not len(rows.code):
        return best
    line = Timeline(rows.code, rows.event, rows.codes)
    ranked = untied(line, (rows.known, rows.order))
    regular = punctual(rows)
    last = np.maximum.accumulate(np.where(regular[ranked], np.arange(len(ranked)), -1))
    place = line.find(queries.code, queries.at)
    start = line.start(queries.code)
    some = place > start
    best[some] = np.where(last[place[some] - 1] >= start[some], last[place[some] - 1], -1)
    if not regular.all():
        rank = np.empty_like(ranked)
        rank[ranked] = np.arange(len(ranked))
        _among_late(rows, rank, np.flatnonzero((rows.end == FOREVER) & ~regular), queries, best)
        _among_superseded(rows, ranked, rank, queries, best, ttl)
    found = np.where(best >= 0, ranked[best], -1)
    fresh = (found >= 0) & (queries.at - rows.event[found] <= ttl)
    return np.where(fresh, found, -1)


def _among_late(rows: Keyed, rank: Int64, late: Int64, queries: Queries, best: Int64) -> None:
    """Raise `best` to rows that became visible after their event."""
    if len(late):
        line = Timeline(rows.code[late], rows.visible[late], rows.codes)
        running = np.maximum.accumulate(rank[late[line.order]])
        place = line.find(queries.code, queries.at)
        some = place > line.start(queries.code)
        best[some] = np.maximum(best[some], running[place[some] - 1])


def _among_superseded(rows: Keyed, ranked: Int64, rank: Int64, queries: Queries, best: Int64, ttl: int) -> None:
    """Raise `best` to superseded rows that were still active: walk back from t, no further than the best row so far or the ttl."""
    passing = ranked[rows.end[ranked] != FOREVER]
    if not len(passing):
        return
    line = Timeline(rows.code[passing], rows.event[passing], rows.codes)
    place = line.find(queries.code, queries.at) - 1
    first = np.maximum(line.start(queries.code), line.find(queries.code, queries.at - ttl - 1))
    walking = np.flatnonzero(place >= first)
    while len(walking):
        row = passing[place[walking]]
        ahead = rank[row] > best[walking]
        walking, row = walking[ahead], row[ahead]
        at = queries.at[walking]
        active = (rows.visible[row] <= at) & (at < rows.end[row])
        best[walking[active]] = rank[row[active]]
        walking = walking[~active]
        place[walking] -= 1
        walking = walking[place[walking] >= first[walking]]

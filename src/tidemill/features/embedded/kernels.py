"""Questions that a feature asks of its rows: sums over a window, extremes over a window, the newest row.

All work on arrays for many queries at once, and none looks at a row before it is visible or after it is superseded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.features.embedded.exact import deviation, join, split, split_squares, whole
from tidemill.features.embedded.source import FOREVER, Float64, Int64
from tidemill.features.embedded.timeline import Timeline, accumulate, expand

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
    """Spine rows: the code of their entity (no -1) and their time."""

    code: Int64
    at: Int64


@dataclass(frozen=True, slots=True)
class Summed:
    """Exact sums of many queries: how many values, their sum and that of their squares in parts (see `exact.split`)."""

    count: Int64
    parts: list[Int64]
    squares: list[Int64]
    base: int

    def total(self) -> Float64:
        """The sums, rounded once."""
        return join(self.parts, self.base)

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

    A row is two *changes*: its values come in when it becomes visible and go out when it is superseded, both under its event time.
    The window (lo, t] at t holds the changes made by t, less those of events up to lo. The latter are looked up by event time
    alone, which also counts changes made after t; those have waited for longer than the window is wide, are few, and are put back.
    """

    def __init__(self, rows: Keyed, measures: Sequence[Float64], squared: Collection[int] = ()) -> None:
        """`measures`: a column of numbers each, NaN for none; `squared`: places of those whose squares are summed as well."""
        out = np.flatnonzero(rows.end != FOREVER)
        self._code = np.concatenate([rows.code, rows.code[out]])
        self._event = np.concatenate([rows.event, rows.event[out]])
        self._made = np.concatenate([rows.visible, rows.end[out]])
        self._codes = rows.codes
        self._bases: list[int] = []
        self._parts: list[int] = []
        columns = [np.ones(len(rows.code), dtype=np.int64)]
        self._squares: list[int] = []
        for i, values in enumerate(measures):
            parts, base = split(values)
            squares = split_squares(parts, base)[0] if i in squared else []
            columns += [(~np.isnan(values)).astype(np.int64), *parts, *squares]
            self._bases.append(base)
            self._parts.append(len(parts))
            self._squares.append(len(squares))
        self._changes = [np.concatenate([c, -c[out]]) for c in columns]
        self._by_made = Timeline(self._code, self._made, rows.codes)
        self._by_event = Timeline(self._code, self._event, rows.codes)
        self._made_sums = [_prefix(c, self._by_made.order) for c in self._changes]
        self._event_sums = [_prefix(c, self._by_event.order) for c in self._changes]

    def window(self, queries: Queries, over: int, hop: int) -> list[Summed]:
        """Per query: the number of rows, then for each measure its non-null values, their sum and what their deviation needs."""
        low = (queries.at - over) // hop * hop
        until = self._by_made.find(queries.code, queries.at)
        from_ = self._by_event.find(queries.code, low)
        made, old = self._by_made.start(queries.code), self._by_event.start(queries.code)
        found = [m[until] - m[made] - e[from_] + e[old] for m, e in zip(self._made_sums, self._event_sums, strict=True)]
        self._put_back(found, queries, low, over)
        answer = [Summed(found[0], [], [], 0)]
        at = 1
        for base, parts, squares in zip(self._bases, self._parts, self._squares, strict=True):
            answer.append(Summed(found[at], found[at + 1 : at + 1 + parts], found[at + 1 + parts : at + 1 + parts + squares], base))
            at += 1 + parts + squares
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
        for sums, changes in zip(found, self._changes, strict=True):
            prefix = np.concatenate([[0], np.cumsum(changes[late])])
            known = accumulate(left, right, at, self._made[late], changes[late], np.add, 0)
            sums[some] += prefix[right] - prefix[left] - known


def _prefix(changes: Int64, order: Int64) -> Int64:
    return np.concatenate([[0], np.cumsum(changes[order])])


def extremes(rows: Keyed, values: Float64, queries: Queries, over: int, hop: int, *, least: bool) -> Float64:
    """Least or greatest non-null value in the window, NaN where there is none."""
    operation, identity = (np.minimum, np.inf) if least else (np.maximum, -np.inf)
    low = (queries.at - over) // hop * hop
    result = np.full(len(queries.at), identity)
    lasting = np.flatnonzero((rows.end == FOREVER) & ~np.isnan(values))
    if len(lasting):
        line = Timeline(rows.code[lasting], rows.event[lasting], rows.codes)
        kept = lasting[line.order]
        left, right = line.find(queries.code, low), line.find(queries.code, queries.at)
        result = np.asarray(accumulate(left, right, queries.at, rows.visible[kept], values[kept], operation, identity), dtype=np.float64)
    passing = np.flatnonzero((rows.end != FOREVER) & ~np.isnan(values))
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


def ranks(rows: Keyed) -> tuple[Int64, Int64]:
    """Rows by (entity, event, known, order), and the place of each row in that order."""
    ranked = np.lexsort((rows.order, rows.known, rows.event, rows.code))
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
    ranked, rank = ranks(rows)
    lasting = np.flatnonzero(rows.end == FOREVER)
    if len(lasting):
        line = Timeline(rows.code[lasting], rows.visible[lasting], rows.codes)
        running = np.maximum.accumulate(rank[lasting[line.order]])
        place = line.find(queries.code, queries.at)
        some = place > line.start(queries.code)
        best[some] = running[place[some] - 1]
    _among_superseded(rows, ranked, rank, queries, best, ttl)
    found = np.where(best >= 0, ranked[best], -1)
    fresh = (found >= 0) & (queries.at - rows.event[found] <= ttl)
    return np.where(fresh, found, -1)


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

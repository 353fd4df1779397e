"""Finding places in rows that are sorted by key, then time; and sums or extremes over two clocks at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.features.checks import check_key, plain_key
from tidemill.features.embedded.source import Int64

_WIDE = 2**62


class Timeline:
    """Positions of items by (key code, time). `order` sorts the items (ties in any order); codes run from 0 to `codes` - 1.

    A code and a time are packed into one integer where they fit, which sorts and searches several times faster than two; times
    that are too far apart are numbered first.
    """

    def __init__(self, code: Int64, time: Int64, codes: int) -> None:
        low, high = (int(time.min()), int(time.max())) if len(time) else (0, 0)
        self._low, self._width = low - 1, high - low + 3
        self._times: Int64 | None = None
        if self._width > _WIDE // max(codes, 1):
            self._times, time = np.unique(time, return_inverse=True)
            self._low, self._width = -1, len(self._times) + 2
        places = code * self._width + (time - self._low)
        self.order: Int64 = np.argsort(places)
        self.places: Int64 = places[self.order]
        self.starts: Int64 = np.searchsorted(self.places, np.arange(codes + 1) * self._width)

    def find(self, code: Int64, time: Int64) -> Int64:
        """For each query: how many sorted items are at or before (code, time). Fast when the queries are sorted as well."""
        if self._times is not None:
            time = np.searchsorted(self._times, time, side="right") - 1
        return np.searchsorted(self.places, code * self._width + np.clip(time - self._low, 0, self._width - 1), side="right")

    def start(self, code: Int64) -> Int64:
        """For each query: the position of the first item of its key."""
        return self.starts[code]


def untied(line: Timeline, ties: Sequence[Int64]) -> Int64:
    """The order of a line's items with those of one (code, time) by `ties`, the first that differs."""
    order, same = line.order.copy(), line.places[1:] == line.places[:-1]
    if same.any():
        tied = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(t[rows] for t in reversed(ties)), line.places[tied]))]
    return order


def accumulate(
    left: Int64,
    right: Int64,
    until: Int64,
    time: Int64,
    columns: Sequence[npt.NDArray[np.generic]],
    operation: np.ufunc,
    identity: float,
) -> list[npt.NDArray[np.generic]]:
    """For each query and column: `operation` over the items at positions [left, right) whose `time` is at most `until`.

    A merge-sort tree, one level at a time: level k sorts blocks of 2^k neighbours by time and accumulates in each, and a
    query takes at most two blocks a level. O((n + q) log n) whatever the data. Source: the textbook structure for
    dominance sums (de Berg et al., Computational Geometry, ch. 5, range trees), built bottom-up.
    """
    results = [np.full(len(left), identity, dtype=c.dtype) for c in columns]
    if not (left < right).any():
        return results
    times, rank = np.unique(time, return_inverse=True)
    wanted = np.searchsorted(times, until, side="right")
    width, position = len(times) + 1, np.arange(len(time))
    left, right, level = left.copy(), right.copy(), 0
    while (open_ := left < right).any():
        place = (position >> level) * width + rank
        order = np.argsort(place)
        place, running = place[order], [_running(c[order], level, operation, identity) for c in columns]
        for side, edge in ((left, left), (right, right - 1)):
            take = np.flatnonzero(open_ & (edge >= 0) & ((side & 1) == 1) & (left < right))
            block = edge[take]
            found = np.searchsorted(place, block * width + wanted[take], side="left")
            some = found > (block << level)
            for result, run in zip(results, running, strict=True):
                result[take[some]] = operation(result[take[some]], run[found[some] - 1])
            side[take] += 1 if side is left else -1
        left >>= 1
        right >>= 1
        level += 1
    return results


def _running(values: npt.NDArray[np.generic], level: int, operation: np.ufunc, identity: float) -> npt.NDArray[np.generic]:
    size = 1 << level
    padded = np.full(-(-len(values) // size) * size, identity, dtype=values.dtype)
    padded[: len(values)] = values
    flat: npt.NDArray[np.generic] = operation.accumulate(padded.reshape(-1, size), axis=1).reshape(-1)
    return flat


def expand(left: Int64, right: Int64, chunk: int, visit: Callable[[Int64, Int64], None]) -> None:
    """Call `visit(query, position)` with all pairs of a query and a position in its [left, right), about `chunk` pairs at a time."""
    count = np.maximum(right - left, 0)
    ends = np.cumsum(count)
    first = 0
    while first < len(count):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + chunk, side="right")))
        sizes = count[first:last]
        query = np.repeat(np.arange(first, last), sizes)
        offset = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        visit(query, left[query] + offset)
        first = last


def encode(spine: pa.Table, rows: pa.Table, keys: tuple[str, ...], view: str) -> tuple[Int64, Int64, int]:
    """Number the keys: codes of the spine's rows, codes of the source's rows (-1 where a key is null), and how many codes there are."""
    n = spine.num_rows
    code, codes = np.zeros(n + rows.num_rows, dtype=np.int64), 1
    missing = np.zeros(len(code), dtype=bool)
    for key in keys:
        coded = _together(spine[key], rows[f"k_{key}"], key, view).dictionary_encode()
        index = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        missing |= index < 0
        code = code * max(len(coded.dictionary), 1) + np.maximum(index, 0)
        if len(keys) > 1:
            _, code = np.unique(code, return_inverse=True)
        codes = int(code.max(initial=0)) + 1
    code[missing] = -1
    return code[:n], code[n:], codes


def _together(spine: pa.ChunkedArray, rows: pa.ChunkedArray, key: str, view: str) -> pa.Array:
    check_key(view, key, rows.type, spine.type)
    mine, theirs = spine.cast(plain_key(spine.type)), rows.cast(plain_key(rows.type))
    if pa.types.is_null(mine.type):
        mine = mine.cast(theirs.type)
    if pa.types.is_null(theirs.type):
        theirs = theirs.cast(mine.type)
    both: pa.Array = pa.chunked_array([*mine.chunks, *theirs.chunks], type=mine.type).combine_chunks()
    return both

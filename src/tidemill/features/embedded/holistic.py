"""Aggregates that need every value of a window at hand: quantiles, distinct counts, the most frequent values.

All pairs of a query and an active row with a value are looked at, a few million at a time, whatever the number of queries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.features.embedded.kernels import Keyed, Queries
from tidemill.features.embedded.source import Float64, Int64
from tidemill.features.embedded.timeline import Timeline, expand
from tidemill.features.sketches import KEPT, buckets_of, distinct_of, edges_of, hash_of, text_of

_PAIRS = 4_000_000
Reduce = Callable[[Int64, Int64, Int64], None]
"""Called with the queries (ascending), and for all pairs the place of its query among them and its item, in order of both."""


class Windows:
    """The active rows of each query's window. `rows` are those with a value; build once for all features of one (field, over, hop)."""

    def __init__(self, rows: Keyed, queries: Queries, over: int, hop: int) -> None:
        self._rows, self._queries = rows, queries
        self._line = Timeline(rows.code, rows.event, rows.codes)
        self._left = self._line.find(queries.code, (queries.at - over) // hop * hop)
        self._right = self._line.find(queries.code, queries.at)

    def reduce(self, items: Int64, reduce: Reduce) -> None:
        """Call `reduce` with the items (one for each row) of all windows that have any, sorted within each window."""
        kept = self._line.order
        item, visible, end = items[kept], self._rows.visible[kept], self._rows.end[kept]

        def visit(query: Int64, position: Int64) -> None:
            at = self._queries.at[query]
            active = (visible[position] <= at) & (at < end[position])
            query, found = query[active], item[position[active]]
            if len(query):
                order = np.lexsort((found, query))
                query, found = query[order], found[order]
                first = np.flatnonzero(np.concatenate([[True], query[1:] != query[:-1]]))
                reduce(query[first], np.cumsum(np.concatenate([[False], query[1:] != query[:-1]])), found)

        expand(self._left, self._right, _PAIRS, visit)


def quantiles(windows: Windows, values: Float64, q: float, queries: int) -> Float64:
    """The value of rank ceil(q n) of each query, by buckets; NaN where there is none."""
    answer = np.full(queries, np.nan)

    def reduce(query: Int64, place: Int64, bucket: Int64) -> None:
        n = np.bincount(place)
        start = np.cumsum(n) - n
        answer[query] = edges_of(bucket[start + np.maximum(np.ceil(q * n).astype(np.int64) - 1, 0)])

    windows.reduce(buckets_of(values), reduce)
    return answer


def distincts(windows: Windows, values: pa.Array, queries: int) -> Int64:
    """The number of different values of each query."""
    answer = np.zeros(queries, dtype=np.int64)

    def reduce(query: Int64, place: Int64, hashed: Int64) -> None:
        new = np.concatenate([[True], (place[1:] != place[:-1]) | (hashed[1:] != hashed[:-1])])
        place, hashed = place[new], hashed[new]
        n = np.bincount(place)
        start = np.cumsum(n) - n
        many = np.flatnonzero(n >= KEPT)
        answer[query] = n
        answer[query[many]] = [distinct_of(KEPT, greatest) for greatest in hashed[start[many] + KEPT - 1].tolist()]

    windows.reduce(hashes(values), reduce)
    return answer


def hashes(values: pa.Array) -> Int64:
    """Hashes of non-null texts, integers or booleans."""
    coded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
    made = np.array([hash_of(text_of(v)) for v in coded.dictionary.to_pylist()], dtype=np.int64)
    return np.asarray(made[coded.indices.to_numpy()])


def tops(windows: Windows, values: pa.Array, ranks: int, queries: int) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The most frequent values of each query: codes (queries, ranks), -1 where there are fewer, and the values by code."""
    coded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
    order = pc.sort_indices(coded.dictionary)
    code = np.empty(len(order), dtype=np.int64)
    code[order.to_numpy()] = np.arange(len(order))
    answer = np.full((queries, ranks), -1, dtype=np.int64)

    def reduce(query: Int64, place: Int64, item: Int64) -> None:
        first = np.flatnonzero(np.concatenate([[True], (place[1:] != place[:-1]) | (item[1:] != item[:-1])]))
        times = np.diff(np.concatenate([first, [len(place)]]))
        place, item = place[first], item[first]
        best = np.lexsort((item, -times, place))
        place, item = place[best], item[best]
        n = np.bincount(place)
        rank = np.arange(len(place)) - np.repeat(np.cumsum(n) - n, n)
        shown = rank < ranks
        answer[query[place[shown]], rank[shown]] = item[shown]

    windows.reduce(code[coded.indices.to_numpy()] if len(coded) else np.zeros(0, dtype=np.int64), reduce)
    return answer, coded.dictionary.take(order)

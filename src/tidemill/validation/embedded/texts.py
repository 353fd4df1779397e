"""Counting texts: exactly while they are few, then with sketches of fixed size."""

from collections.abc import Iterable, Mapping
from heapq import nsmallest

import datasketches as ds

EXACT = 1_000
"""Up to this many different texts are counted exactly."""

_LOG_SIZE = 9  # of the frequent-items map: estimates are off by at most 3.5 / 2^9 of the total, 0.7 %
_LOG_K = 11  # of HyperLogLog: distinct counts are off by about 2 %


class Texts:
    """How often each text occurs. Immutable; above `EXACT` different texts, counts and distinct are estimates."""

    __slots__ = ("_counts", "_distinct", "_frequent")

    def __init__(self, counts: Mapping[str, int] | None = None, frequent: bytes = b"", distinct: bytes = b"") -> None:
        """Either `counts` or both sketches' bytes."""
        self._counts = counts
        self._frequent = frequent
        self._distinct = distinct

    @classmethod
    def of(cls, values: Iterable[str], counts: Iterable[int]) -> "Texts":
        """From different `values` and how often each occurs."""
        return cls._settle(dict(zip(values, counts, strict=True)))

    @classmethod
    def _settle(cls, counts: dict[str, int]) -> "Texts":
        return cls(counts) if len(counts) <= EXACT else cls(None, *_sketch(counts))

    def merge(self, other: "Texts") -> "Texts":
        """The counts of both together."""
        if self._counts is not None and other._counts is not None:
            both = dict(self._counts)
            for value, n in other._counts.items():
                both[value] = both.get(value, 0) + n
            return self._settle(both)
        mine, theirs = self._sketches(), other._sketches()
        items = ds.frequent_strings_sketch.deserialize(mine[0])
        items.merge(ds.frequent_strings_sketch.deserialize(theirs[0]))
        union = ds.hll_union(_LOG_K)
        union.update(ds.hll_sketch.deserialize(mine[1]))
        union.update(ds.hll_sketch.deserialize(theirs[1]))
        return Texts(None, items.serialize(), union.get_result(ds.tgt_hll_type.HLL_8).serialize_compact())

    def _sketches(self) -> tuple[bytes, bytes]:
        return _sketch(self._counts) if self._counts is not None else (self._frequent, self._distinct)

    @property
    def distinct(self) -> int:
        """How many different texts there are."""
        if self._counts is not None:
            return len(self._counts)
        return round(float(ds.hll_sketch.deserialize(self._distinct).get_estimate()))

    def top(self, limit: int) -> list[tuple[str, int]]:
        """The most frequent texts with their counts, ties by text."""
        if self._counts is not None:
            found = list(self._counts.items())
        else:
            items = ds.frequent_strings_sketch.deserialize(self._frequent)
            found = [(i[0], i[1]) for i in items.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)]
        return nsmallest(limit, found, key=lambda pair: (-pair[1], pair[0]))

    def counts(self, values: Iterable[str]) -> list[int]:
        """How often each of `values` occurs."""
        if self._counts is not None:
            return [self._counts.get(value, 0) for value in values]
        items = ds.frequent_strings_sketch.deserialize(self._frequent)
        return [items.get_estimate(value) for value in values]

    def pack(self) -> tuple[dict[str, int] | None, bytes, bytes]:
        """The constructor's arguments."""
        return (None if self._counts is None else dict(self._counts)), self._frequent, self._distinct


def _sketch(counts: Mapping[str, int]) -> tuple[bytes, bytes]:
    items, distinct = ds.frequent_strings_sketch(_LOG_SIZE), ds.hll_sketch(_LOG_K, ds.tgt_hll_type.HLL_8)
    for value, n in counts.items():
        items.update(value, n)
        distinct.update(value)
    return items.serialize(), distinct.serialize_compact()

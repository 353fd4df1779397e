"""What a tile holds for one kind of feature of one field, and how rows go in, come out again and are put together.

A slot is one element of a tile. Where rows can be taken back (their table has a key), a slot holds enough to do so: how often each
value occurs, or all rows; elsewhere (`thin`) it holds no more than the answer needs, so its size is bounded.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tidemill.core.aggregates import Aggregate, Kind
from tidemill.features.embedded.exact import add, deviation_of, grow, scaled, total
from tidemill.features.sketches import KEPT, bucket_of, distinct_of, edge_of, hash_of, text_of

SlotKind = Literal["present", "sum", "square", "order", "often", "bucket", "hash", "ends"]
"""Number of values · their number and exact sum · exact sum of squares · least and greatest · how often each occurs · how many in each
bucket · which hashes · the first and the last row."""
NEEDS: dict[Kind, tuple[SlotKind, ...]] = {
    "count": ("present",),
    "sum": ("sum",),
    "mean": ("sum",),
    "std": ("sum", "square"),
    "min": ("order",),
    "max": ("order",),
    "first": ("ends",),
    "last": ("ends",),
    "latest": ("ends",),
    "distinct": ("hash",),
    "quantile": ("bucket",),
    "top": ("often",),
}
"""The slots that a kind of feature is answered from."""
Key = tuple[int, int, int]
"""Event time, known time, number: the order of rows."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One element of a tile: `field` is the place of the field among the plan's."""

    kind: SlotKind
    field: int
    thin: bool

    def empty(self) -> Any:
        """The element of a tile without rows."""
        return _EMPTY[self.kind]()

    def change(self, element: Any, value: Any, key: Key, sign: int) -> Any:
        """The element with a value more (`sign` 1) or less (-1); `element` may be changed."""
        return _CHANGE[self.kind](element, value, key, sign, self.thin)

    def merge(self, element: Any, other: Any) -> Any:
        """Both elements as one; they may be changed."""
        return _MERGE[self.kind](element, other, self.thin)


def answer(a: Aggregate, elements: Sequence[Sequence[Any]]) -> Any:
    """A feature from the elements of its slots in all tiles of its window: one sequence for each slot that it needs."""
    return _ANSWER[a.kind](a, elements)


def _change_sum(element: list[Any], value: float, _key: Key, sign: int, _thin: bool) -> list[Any]:
    element[0] += sign
    grow(element[1], value if sign > 0 else -value)
    return element


def _change_square(element: list[Any], value: float, _key: Key, sign: int, _thin: bool) -> list[Any]:
    mantissa, exponent = scaled(value)
    return packed_add(element, sign * mantissa * mantissa, 2 * exponent)


def packed_add(element: list[Any], mantissa: int, exponent: int) -> list[Any]:
    """Add to an exact number that is kept as [bytes of the mantissa, exponent]."""
    number = unpacked(element)
    add(number, mantissa, exponent)
    size = number[0].bit_length() // 8 + 1
    element[:] = [number[0].to_bytes(size, "big", signed=True), number[1]]
    return element


def unpacked(element: Sequence[Any]) -> list[int]:
    """The exact number [mantissa, exponent]."""
    return [int.from_bytes(element[0], "big", signed=True), element[1]]


def _count(counts: dict[Any, int], item: Any, sign: int) -> None:
    left = counts.get(item, 0) + sign
    if left:
        counts[item] = left
    else:
        del counts[item]


def _change_order(counts: dict[Any, int], value: Any, _key: Key, sign: int, thin: bool) -> dict[Any, int]:
    _count(counts, value, sign)
    return _extremes(counts) if thin and len(counts) > 2 else counts


def _extremes(counts: dict[Any, int]) -> dict[Any, int]:
    return {min(counts): 1, max(counts): 1}


def _change_hash(counts: dict[int, int], value: Any, _key: Key, sign: int, thin: bool) -> dict[int, int]:
    _count(counts, hash_of(text_of(value)), sign)
    return least(counts) if thin and len(counts) > 2 * KEPT else counts


def least(counts: dict[int, int]) -> dict[int, int]:
    """The least hashes, as many as a distinct count needs."""
    return dict.fromkeys(sorted(counts)[:KEPT], 1)


def _change_often(counts: dict[Any, int], value: Any, _key: Key, sign: int, _thin: bool) -> dict[Any, int]:
    _count(counts, value, sign)
    return counts


def _change_bucket(counts: dict[int, int], value: float, _key: Key, sign: int, _thin: bool) -> dict[int, int]:
    _count(counts, bucket_of(value), sign)
    return counts


def _change_ends(rows: list[Any], value: Any, key: Key, sign: int, thin: bool) -> list[Any]:
    if sign < 0:
        place = bisect_left(rows, [*key])
        if place < len(rows) and tuple(rows[place][:3]) == key:
            del rows[place]
        return rows
    insort(rows, [*key, value], key=lambda row: row[:3])
    return [rows[0], rows[-1]] if thin and len(rows) > 2 else rows


def _merge_sum(element: list[Any], other: list[Any], _thin: bool) -> list[Any]:
    element[0] += other[0]
    for partial in other[1]:
        grow(element[1], partial)
    return element


def _merge_counts(counts: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    for item, n in other.items():
        counts[item] = counts.get(item, 0) + n
    return counts


def _merge_order(counts: dict[Any, int], other: dict[Any, int], thin: bool) -> dict[Any, int]:
    both = _merge_counts(counts, other)
    return _extremes(both) if thin and len(both) > 2 else both


def _merge_hash(counts: dict[int, int], other: dict[int, int], thin: bool) -> dict[int, int]:
    both = _merge_counts(counts, other)
    return least(both) if thin and len(both) > 2 * KEPT else both


def _merge_ends(rows: list[Any], other: list[Any], thin: bool) -> list[Any]:
    both = sorted([*rows, *other], key=lambda row: row[:3])
    return [both[0], both[-1]] if thin and len(both) > 2 else both


_EMPTY: dict[SlotKind, Callable[[], Any]] = {
    "present": int,
    "sum": lambda: [0, []],
    "square": lambda: [b"\0", 0],
    "order": dict,
    "often": dict,
    "bucket": dict,
    "hash": dict,
    "ends": list,
}
_CHANGE: dict[SlotKind, Callable[[Any, Any, Key, int, bool], Any]] = {
    "present": lambda element, _value, _key, sign, _thin: element + sign,
    "sum": _change_sum,
    "square": _change_square,
    "order": _change_order,
    "often": _change_often,
    "bucket": _change_bucket,
    "hash": _change_hash,
    "ends": _change_ends,
}
_MERGE: dict[SlotKind, Callable[[Any, Any, bool], Any]] = {
    "present": lambda element, other, _thin: element + other,
    "sum": _merge_sum,
    "square": lambda element, other, _thin: packed_add(element, *unpacked(other)),
    "order": _merge_order,
    "often": lambda counts, other, _thin: _merge_counts(counts, other),
    "bucket": lambda counts, other, _thin: _merge_counts(counts, other),
    "hash": _merge_hash,
    "ends": _merge_ends,
}


def _answer_sum(a: Aggregate, elements: Sequence[Sequence[Any]]) -> float | None:
    n = sum(element[0] for element in elements[0])
    if not n:
        return None
    value = total([partial for element in elements[0] for partial in element[1]])
    return value / n if a.kind == "mean" else value


def _answer_std(_a: Aggregate, elements: Sequence[Sequence[Any]]) -> float | None:
    n = sum(element[0] for element in elements[0])
    if n < 2:
        return None
    return deviation_of(n, [p for element in elements[0] for p in element[1]], [unpacked(element) for element in elements[1]])


def _all_of(elements: Iterable[dict[Any, int]]) -> dict[Any, int]:
    every: dict[Any, int] = {}
    for counts in elements:
        _merge_counts(every, counts)
    return every


def _answer_distinct(_a: Aggregate, elements: Sequence[Sequence[Any]]) -> int:
    hashes = set[int]().union(*elements[0])
    if len(hashes) < KEPT:
        return len(hashes)
    return distinct_of(KEPT, sorted(hashes)[KEPT - 1])


def _answer_quantile(a: Aggregate, elements: Sequence[Sequence[Any]]) -> float | None:
    counts = _all_of(elements[0])
    if not counts:
        return None
    wanted = max(1, int(np.ceil(a.q * sum(counts.values()))))
    for bucket in sorted(counts):
        wanted -= counts[bucket]
        if wanted <= 0:
            break
    return edge_of(bucket)


def _answer_top(a: Aggregate, elements: Sequence[Sequence[Any]]) -> Any:
    counts = _all_of(elements[0])
    if a.rank > len(counts):
        return None
    return sorted(counts, key=lambda value: (-counts[value], value))[a.rank - 1]


def _answer_end(a: Aggregate, elements: Sequence[Sequence[Any]]) -> Any:
    rows = [row for element in elements[0] for row in element]
    if not rows:
        return None
    pick = min if a.kind == "first" else max
    return pick(rows, key=lambda row: row[:3])[3]


_ANSWER: dict[Kind, Callable[[Aggregate, Sequence[Sequence[Any]]], Any]] = {
    "count": lambda _a, elements: sum(elements[0]),
    "sum": _answer_sum,
    "mean": _answer_sum,
    "std": _answer_std,
    "min": lambda _a, elements: min((min(counts) for counts in elements[0] if counts), default=None),
    "max": lambda _a, elements: max((max(counts) for counts in elements[0] if counts), default=None),
    "first": _answer_end,
    "last": _answer_end,
    "distinct": _answer_distinct,
    "quantile": _answer_quantile,
    "top": _answer_top,
}


def newest(elements: Sequence[Sequence[Any]]) -> Any:
    """The last row [event, known, number, value] of a feature's only slot, None where there is none."""
    return max((rows[-1] for rows in elements[0] if rows), key=lambda row: row[:3], default=None)

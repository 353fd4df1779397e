"""Many rows into many states at once: the rows of one key and tile become one tile, which is then merged into the state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.features.embedded import decode
from tidemill.features.embedded.exact import grow, join_parts, split
from tidemill.features.embedded.slots import Slot, SlotKind
from tidemill.features.embedded.source import Float64, Int64
from tidemill.features.embedded.tiles import Row, State, Tile, ViewPlan, WindowPlan
from tidemill.features.sketches import buckets_of

_FEW = 8
"""Values that are added one by one; more are added as integers."""


class Rows:
    """Rows of one view that count from now on and that nothing supersedes yet: `code` numbers their keys."""

    def __init__(self, plan: ViewPlan, columns: pa.Table, code: Int64, event: Int64, known: Int64, number: Int64) -> None:
        self.plan, self.code, self.event, self.known, self.number = plan, code, event, known, number
        self._columns = columns

    def numbers(self, place: int) -> Float64:
        """A field that is a number (or 1), NaN where it has no value."""
        return decode.measure(self._columns, self.plan.fields[place])

    def values(self, place: int) -> list[Any]:
        """A field of any type, None where it has no value."""
        return decode.field_values(self._columns, self.plan.fields[place])

    def rows(self, places: Int64) -> list[Row]:
        """Some of the rows as plans take them."""
        made = decode.values(self.plan, self._columns.take(pa.array(places)))
        return list(zip(self.event[places].tolist(), self.known[places].tolist(), self.number[places].tolist(), made, strict=True))


def add(rows: Rows, states: Sequence[State | None], clock: int) -> None:
    """Let rows count in the states of their keys (by code); all stand at `clock`."""
    for i, window in enumerate(rows.plan.windows):
        _windows(rows, states, i, window, (clock - window.over) // window.hop)
    if rows.plan.latest:
        _newest(rows, states)


def _windows(rows: Rows, states: Sequence[State | None], i: int, window: WindowPlan, low: int) -> None:
    tile = (rows.event - 1) // window.hop
    inside = np.flatnonzero(tile >= low)
    if not len(inside):
        return
    code, tile = rows.code[inside], tile[inside]
    order, start = _groups(code, tile)
    places = inside[order]
    first = order[start]
    for key, n, new in zip(code[first].tolist(), tile[first].tolist(), _tiles(rows, window, places, start), strict=True):
        state = states[key]
        assert state is not None
        state.memo[i] = None
        tiles = state.tiles[i]
        old = tiles.get(n)
        if old is None:
            tiles[n] = new
        else:
            window.merge(old, new)


def _groups(code: Int64, tile: Int64) -> tuple[Int64, Int64]:
    """An order that puts rows of one key and tile side by side, and where each group starts in it."""
    span = tile - tile.min()
    width = int(span.max()) + 1
    if int(code.max()) < 2**62 // width:
        both = code * width + span
        order = np.argsort(both, kind="stable")
        both = both[order]
        new = both[1:] != both[:-1]
    else:
        order = np.lexsort((span, code))
        new = (code[order][1:] != code[order][:-1]) | (span[order][1:] != span[order][:-1])
    return order, np.concatenate([[0], np.flatnonzero(new) + 1])


def _tiles(rows: Rows, window: WindowPlan, places: Int64, start: Int64) -> list[Tile]:
    """One tile for each group of rows; group i is `places[start[i]:start[i + 1]]`."""
    size = np.diff(start, append=len(places))
    columns = [_ELEMENTS[slot.kind](rows, slot, places, start) for slot in window.slots]
    return [list(tile) for tile in zip(size.tolist(), *columns, strict=True)]


def _present(rows: Rows, slot: Slot, places: Int64, start: Int64) -> list[Any]:
    there = ~np.isnan(rows.numbers(slot.field)[places])
    return np.add.reduceat(there.astype(np.int64), start).tolist()  # type: ignore[no-any-return]


def _sums(rows: Rows, slot: Slot, places: Int64, start: Int64) -> list[Any]:
    sums = exact_sums(rows.numbers(slot.field)[places], start)
    return [[n, total] for n, total in zip(_present(rows, slot, places, start), sums, strict=True)]


def _one_by_one(rows: Rows, slot: Slot, places: Int64, start: Int64) -> list[Any]:
    """Elements made value by value, where nothing quicker is known."""
    values = rows.values(slot.field)
    keys = zip(rows.event[places].tolist(), rows.known[places].tolist(), rows.number[places].tolist(), strict=True)
    ends, made, place = [*start[1:].tolist(), len(places)], [slot.empty() for _ in start], 0
    for i, (row, key) in enumerate(zip(places.tolist(), keys, strict=True)):
        place += i == ends[place]
        if values[row] is not None:
            made[place] = slot.change(made[place], values[row], key, 1)
    return made


def _ordered(rows: Rows, slot: Slot, places: Int64, start: Int64) -> list[Any]:
    values = rows.numbers(slot.field)[places]
    if not slot.thin:
        return _counted(values, start)
    low = np.minimum.reduceat(np.where(np.isnan(values), np.inf, values), start)
    high = np.maximum.reduceat(np.where(np.isnan(values), -np.inf, values), start)
    return [{a: 1, b: 1} if a <= b else {} for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _buckets(rows: Rows, slot: Slot, places: Int64, start: Int64) -> list[Any]:
    values = rows.numbers(slot.field)[places]
    found = np.where(np.isnan(values), np.nan, buckets_of(values))
    return [{int(bucket): n for bucket, n in counts.items()} for counts in _counted(found, start)]


_ELEMENTS: dict[SlotKind, Callable[[Rows, Slot, Int64, Int64], list[Any]]] = {
    "present": _present,
    "sum": _sums,
    "square": _one_by_one,
    "order": _ordered,
    "often": _one_by_one,
    "bucket": _buckets,
    "hash": _one_by_one,
    "ends": _one_by_one,
}


def exact_sums(values: Float64, start: Int64) -> list[list[float]]:
    """The exact sum of each group of values, as `exact.grow` keeps it; NaN counts as zero."""
    plain = np.nan_to_num(values, nan=0.0)
    size = np.diff(start, append=len(values))
    sums = [[v] if v else [] for v in plain[start].tolist()]
    few = np.flatnonzero((size > 1) & (size <= _FEW))
    for group, first, count in zip(few.tolist(), start[few].tolist(), size[few].tolist(), strict=True):
        partials = sums[group]
        for value in plain[first + 1 : first + count].tolist():
            grow(partials, value)
    many = np.flatnonzero(size > _FEW)
    if len(many):
        _many_sums(plain, size, many, sums)
    return sums


def _many_sums(plain: Float64, size: Int64, many: Int64, sums: list[list[float]]) -> None:
    inside = np.repeat(size > _FEW, size)
    parts, base = split(plain[inside])
    ends = np.cumsum(size[many])
    totals = [np.add.reduceat(part, ends - size[many]) for part in parts]
    for group, words in zip(many.tolist(), join_parts(totals, base), strict=True):
        partials: list[float] = []
        for word in words:
            grow(partials, word)
        sums[group] = partials


def _counted(values: Float64, start: Int64) -> list[dict[float, int]]:
    """How often each value occurs in each group; NaN is none."""
    found: list[dict[float, int]] = []
    plain = values.tolist()
    ends = [*start[1:].tolist(), len(plain)]
    for first, end in zip(start.tolist(), ends, strict=True):
        counts: dict[float, int] = {}
        for value in plain[first:end]:
            if value == value:
                counts[value] = counts.get(value, 0) + 1
        found.append(counts)
    return found


def _newest(rows: Rows, states: Sequence[State | None]) -> None:
    """Only a key's last rows can become its newest."""
    plan = rows.plan
    order = np.lexsort((rows.number, rows.known, rows.event, rows.code))
    code = rows.code[order]
    last = np.ones(len(order), dtype=bool)
    last[: -plan.kept] = code[plan.kept :] != code[: -plan.kept]
    picked = order[last]
    left_out = np.unique(code[~last])
    turn: Callable[[State, Row, int], None] = plan.turn
    for key, row in zip(rows.code[picked].tolist(), rows.rows(picked), strict=True):
        state = states[key]
        assert state is not None
        turn(state, row, 1)
    if plan.kept > 1:
        for key in left_out.tolist():
            state = states[key]
            assert state is not None
            state.cut = True

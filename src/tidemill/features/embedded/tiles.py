"""The state of one (view, key): tiles for its windows, rows for its latest values, and what is still ahead.

A window (lo, t] with lo a multiple of the hop is made of whole tiles: tile i covers event times in (i hop, (i + 1) hop], and
nothing later than t has gone in. So a state stands at its `clock`, goes forward only, and needs no event to stay right as time
passes. A row that becomes visible later, or is superseded later, waits in `ahead` until the clock gets there. All sums are exact,
so a row can be taken out again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.embedded.slots import NEEDS, Slot, answer, newest
from tidemill.features.fields import Field, field_of
from tidemill.features.formula import formulas

NEVER = -(2**63)
"""Before all time: where a new state's clock stands."""
FOREVER = 2**63 - 1

Row = tuple[int, int, int, Sequence[Any]]
"""Event time, known time, number in the order of ingestion, values in the order of `ViewPlan.fields`."""
Tile = list[Any]
"""Number of rows; then an element for each slot of the window."""
Memo = tuple[list[tuple[str, Any]], list[tuple[str, Any, int]]]
"""Answers of a window by name; and for values with a condition and a ttl the newest row."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_rows = msgspec.msgpack.Decoder(tuple[int, tuple[Any, ...], Any, tuple[tuple[int, int, int, tuple[Any, ...]], ...], bool]).decode
"""Of a state whose newest rows are all that is asked for: as tuples, which are made quicker than lists."""
_AGE_HOPS = 36


@dataclass(slots=True)
class State:
    """What is known of one key. `tiles` has one dict for each window of the plan, `memo` their last answers, `lows` their first tiles.

    `newest` keeps the last few rows only: `cut` says that older ones were left out. When all that were kept have been taken back,
    `lost` is where they stood, and `ViewPlan.renew` has to find the rows behind them.
    """

    clock: int = NEVER
    ahead: list[tuple[int, int, int, Row]] = field(default_factory=list)
    tiles: list[dict[int, Tile]] = field(default_factory=list)
    newest: list[Row] = field(default_factory=list)
    memo: list[Any] = field(default_factory=list)
    lows: list[int] = field(default_factory=list)
    cut: bool = False
    lost: tuple[int, int, int] | None = None


@dataclass(slots=True)
class WindowPlan:
    """One (over, hop) of a view: the slots of its tiles and the features that they answer.

    `outputs`: name, feature and the places of its slots in a tile. `aged`: name, place and ttl of values whose age is looked at last.
    """

    over: int
    hop: int
    slots: list[Slot] = field(default_factory=list)
    outputs: list[tuple[str, Aggregate, tuple[int, ...]]] = field(default_factory=list)
    aged: list[tuple[str, int, int]] = field(default_factory=list)

    def place(self, slot: Slot) -> int:
        """Where a slot is in a tile; it gets a place when it has none."""
        if slot not in self.slots:
            self.slots.append(slot)
        return 1 + self.slots.index(slot)

    def empty(self) -> Tile:
        """A tile without rows."""
        return [0, *(slot.empty() for slot in self.slots)]

    def change(self, tile: Tile, row: Row, sign: int) -> None:
        """Add a row's values to a tile (`sign` 1) or take them out (-1)."""
        tile[0] += sign
        key, values = row[:3], row[3]
        for place, slot in enumerate(self.slots, 1):
            value = values[slot.field]
            if value is not None:
                tile[place] = slot.change(tile[place], value, key, sign)

    def merge(self, tile: Tile, other: Tile) -> None:
        """Add another tile's rows to a tile; `other` is the tile's from then on."""
        tile[0] += other[0]
        for place, slot in enumerate(self.slots, 1):
            tile[place] = slot.merge(tile[place], other[place])

    def answer(self, tiles: list[Tile]) -> Memo:
        """The features over these tiles, and for each aged one its newest row."""
        found = [
            (name, answer(a, [[t[p] for t in tiles] for p in places]) if places else sum([t[0] for t in tiles]))
            for name, a, places in self.outputs
        ]
        return found, [(name, newest([[t[place] for t in tiles]]), ttl) for name, place, ttl in self.aged]


class ViewPlan:
    """How rows of a view's table change the state of a key, and how the state is read."""

    def __init__(self, view: FeatureView) -> None:
        self.view, self.keys = view, view.keys
        self.fields: list[Field] = []
        self.windows: list[WindowPlan] = []
        self.latest: list[tuple[str, int, int]] = []
        for aggregate in view.aggregates:
            self._plan(aggregate)
        self.formulas = formulas(view)
        self.ttl = max((ttl for _, _, ttl in self.latest), default=-1)
        plain = [i for _, i, _ in self.latest] == list(range(len(self.fields))) and not self.formulas
        self._youngest = (
            min((ttl for _, _, ttl in self.latest), default=-1) if plain else -1
        )  # up to that age a row's values are the answer
        self.kept = 2 if view.table.keys else 1
        self.retention = max([w.over + w.hop for w in self.windows] + [self.ttl])
        nothing: dict[str, Any] = {}
        self.read(self.new(), 0, nothing)
        self.names = tuple(nothing)
        """Full names of the features, in the order in which `read` puts them."""
        self.blank = tuple(nothing.values())
        """The features of a key that no row has named, at any time."""

    def _plan(self, a: Aggregate) -> None:
        if a.kind == "expression":
            return
        name, found = self.view.full_name(a), field_of(a)
        i = -1 if found is None else self._field(found)
        if a.kind == "latest" and not a.where:
            self.latest.append((name, i, a.ttl_us))
            return
        if a.kind == "latest":  # a window that is as wide as the ttl; the age is looked at when it is read
            hop = -(-a.ttl_us // _AGE_HOPS)
            over = (-(-a.ttl_us // hop) + 1) * hop
        else:
            over, hop = a.over_us, a.hop_us
        window = next((w for w in self.windows if (w.over, w.hop) == (over, hop)), None)
        if window is None:
            window = WindowPlan(over, hop)
            self.windows.append(window)
        places = tuple(window.place(Slot(kind, i, not self.view.table.keys)) for kind in NEEDS[a.kind]) if found is not None else ()
        if a.kind == "latest":
            window.aged.append((name, places[0], a.ttl_us))
        else:
            window.outputs.append((name, a, places))

    def _field(self, wanted: Field) -> int:
        if wanted not in self.fields:
            self.fields.append(wanted)
        return self.fields.index(wanted)

    def new(self) -> State:
        """The state of a key that no row has named."""
        n = len(self.windows)
        return State(tiles=[{} for _ in range(n)], memo=[None] * n, lows=[NEVER] * n)

    def unpack(self, body: bytes | None) -> State:
        """The state that `pack` wrote, or that of a key that no row has named."""
        if body is None:
            return self.new()
        clock, ahead, tiles, newest, cut = _decode(body)
        lows = self.lows(clock)
        ahead = [(t, n, s, tuple(r)) for t, n, s, r in ahead]
        return State(clock, ahead, tiles, [tuple(r) for r in newest], [None] * len(tiles), lows, cut)

    def glance(self, bodies: Sequence[bytes | None], at: int) -> list[Row | None]:
        """Straight from the bytes of states, where the newest row says all: that row, its values those of the features at `at` (as `names`).

        None where there is no state, or the whole of it is needed.
        """
        if self.windows:
            return [None] * len(bodies)
        youngest = self._youngest
        told: list[Row | None] = []
        for body in bodies:
            row: Row | None = None
            if body is not None:
                clock, ahead, _, newest, _ = _decode_rows(body)
                if newest and not ahead and at >= clock:
                    row = newest[-1]
                    if at - row[0] > youngest:
                        row = self._shown(row, at)
            told.append(row)
        return told

    def _shown(self, row: Row, at: int) -> Row:
        """A row with the features at `at` as its values."""
        event, known, number, values = row
        age = at - event
        features = {name: values[i] if age <= ttl else None for name, i, ttl in self.latest}
        for formula in self.formulas:
            features[formula.name] = formula.one(features)
        return event, known, number, [*features.values()]

    def add(self, state: State, row: Row, visible: int, end: int) -> None:
        """Let a row count in [visible, end)."""
        if end <= visible:
            return
        if visible > state.clock:
            insort(state.ahead, (visible, row[2], 1, row))
        elif state.clock < end:
            self._apply(state, row, 1)
        if state.clock < end < FOREVER:
            insort(state.ahead, (end, row[2], -1, row))

    def shorten(self, state: State, row: Row, visible: int, old: int, new: int) -> None:
        """Let a row that counted in [visible, old) count in [visible, new) only; new < old."""
        clock, number = state.clock, row[2]
        if old <= visible:
            return
        if visible > clock or clock < old < FOREVER:
            state.ahead = [a for a in state.ahead if a[1] != number]
        if visible <= clock < old:
            if clock >= new:
                self._apply(state, row, -1)
            elif new < FOREVER:
                insort(state.ahead, (new, number, -1, row))
        elif visible > clock:
            self.add(state, row, visible, new)

    def rebuild(self, history: Iterable[tuple[Row, int, int]], at: int) -> State:
        """The state at `at` from rows with the intervals in which they count."""
        state = self.new()
        for row, visible, end in history:
            self.add(state, row, visible, end)
        self.advance(state, at)
        return state

    def lows(self, at: int) -> list[int]:
        """The oldest tile of each window at a time."""
        return [(at - w.over) // w.hop for w in self.windows]

    def advance(self, state: State, at: int, lows: list[int] | None = None) -> None:
        """Move the state's clock forward to `at`; who moves many has asked for `lows` once, which states then share."""
        state.clock = at
        if lows is None:
            lows = self.lows(at)
        if state.lows != lows:
            self._drop(state, lows)
        ahead = state.ahead
        if ahead and ahead[0][0] <= at:
            due = bisect_left(ahead, (at + 1,))
            for _, _, sign, row in ahead[:due]:
                self._apply(state, row, sign)
            del ahead[:due]
        if state.newest and state.newest[0][0] < at - self.ttl:
            del state.newest[: bisect_left(state.newest, (at - self.ttl,))]
            state.cut = False
        if state.lost is not None and state.lost[0] < at - self.ttl:
            state.lost, state.cut = None, False

    def _drop(self, state: State, lows: list[int]) -> None:
        before, state.lows = state.lows, lows
        for i, low in enumerate(lows):
            tiles = state.tiles[i]
            if low != before[i] and tiles and min(tiles) < low:
                state.memo[i] = None
                for n in [n for n in tiles if n < low]:
                    del tiles[n]

    def _apply(self, state: State, row: Row, sign: int) -> None:
        event = row[0]
        for i, window in enumerate(self.windows):
            n = (event - 1) // window.hop
            if n < state.lows[i]:
                continue
            state.memo[i] = None
            tiles = state.tiles[i]
            tile = tiles.get(n)
            if tile is None:
                tile = tiles[n] = window.empty()
            window.change(tile, row, sign)
            if not tile[0]:
                del tiles[n]
        if self.latest:
            self.turn(state, row, sign)

    def turn(self, state: State, row: Row, sign: int) -> None:
        """Let a row be one of the newest (`sign` 1), or no longer (-1)."""
        newest = state.newest
        if sign > 0:
            if state.lost is not None and row[:3] > state.lost:
                state.lost = None
                newest.clear()
            if not (state.cut and newest and row < newest[0]):
                insort(newest, row)
            if len(newest) > self.kept:
                del newest[: -self.kept]
                state.cut = self.kept > 1
            return
        place = bisect_left(newest, row[:3])
        if place < len(newest) and newest[place][:3] == row[:3]:
            del newest[place]
            if not newest and state.cut:
                state.lost = max(state.lost or row[:3], row[:3])

    def renew(self, state: State, history: Iterable[tuple[Row, int, int]]) -> None:
        """Find the newest rows again, from all rows of the key that may count; for a state with `lost`."""
        rows = sorted((row for row, visible, end in history if visible <= state.clock < end), key=lambda row: row[:3])
        state.newest = [row for row in rows[-self.kept :] if row[0] >= state.clock - self.ttl]
        state.cut, state.lost = len(rows) > self.kept and len(state.newest) == self.kept, None

    def horizon(self, state: State) -> int:
        """From when on the state reads as that of a key that no row has named, at the earliest its clock: too old is not never."""
        found = state.clock
        for window, tiles in zip(self.windows, state.tiles, strict=True):
            if tiles and (gone := (max(tiles) + 2) * window.hop + window.over) > found:
                found = gone
        if state.newest:
            found = max(found, state.newest[-1][0] + self.ttl)
        for visible, *_ in reversed(state.ahead):  # in order of time, and no row is visible before its event
            if visible < FOREVER:
                found = max(found, visible + self.retention)
                break
        return found + 1

    def read(self, state: State, at: int, into: dict[str, Any]) -> None:
        """Put the features at `at` into a dict; the state's clock must be there already."""
        for i, window in enumerate(self.windows):
            found = state.memo[i]
            if found is None:
                found = state.memo[i] = window.answer(list(state.tiles[i].values()))
            into.update(found[0])
            for name, last, ttl in found[1]:
                into[name] = last[3][0] if last is not None and at - last[0] <= ttl else None
        if self.latest:
            row = state.newest[-1] if state.newest else None
            for name, i, ttl in self.latest:
                into[name] = row[3][i] if row is not None and at - row[0] <= ttl else None
        for formula in self.formulas:
            into[formula.name] = formula.one(into)


def pack(state: State) -> bytes:
    """Bytes of a state, for `ViewPlan.unpack`."""
    return _encode((state.clock, state.ahead, state.tiles, state.newest, state.cut))

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

from tidemill.core.aggregates import Aggregate, spelled
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.exact import grow, total

NEVER = -(2**63)
"""Before all time: where a new state's clock stands."""
FOREVER = 2**63 - 1

Row = tuple[int, int, int, Sequence[Any]]
"""Event time, known time, number in the order of ingestion, values in the order of `ViewPlan.fields`."""
Tile = list[Any]
"""Number of rows; then for each summed column the non-null values and their exact sum; then for each ordered column how often each value occurs."""


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
    """One (over, hop) of a view: which fields it sums, which it orders, and the features it answers."""

    over: int
    hop: int
    summed: list[int] = field(default_factory=list)
    ordered: list[int] = field(default_factory=list)
    outputs: list[tuple[str, str, int]] = field(default_factory=list)

    def empty(self) -> Tile:
        """A tile without rows."""
        tile: Tile = [0]
        for _ in self.summed:
            tile += [0, []]
        return tile + [{} for _ in self.ordered]

    def change(self, tile: Tile, values: Sequence[Any], sign: int) -> None:
        """Add a row's values to a tile (`sign` 1) or take them out (-1)."""
        tile[0] += sign
        place = 1
        for i in self.summed:
            value = values[i]
            if value is not None:
                tile[place] += sign
                grow(tile[place + 1], value if sign > 0 else -value)
            place += 2
        for i in self.ordered:
            value = values[i]
            if value is not None:
                counts = tile[place]
                counts[value] = counts.get(value, 0) + sign
                if not counts[value]:
                    del counts[value]
            place += 1

    def merge(self, tile: Tile, other: Tile) -> None:
        """Add another tile's rows to a tile; `other` is the tile's from then on."""
        tile[0] += other[0]
        place = 1
        for _ in self.summed:
            tile[place] += other[place]
            for part in other[place + 1]:
                grow(tile[place + 1], part)
            place += 2
        for _ in self.ordered:
            counts = tile[place]
            for value, count in other[place].items():
                counts[value] = counts.get(value, 0) + count
            place += 1

    def answer(self, tiles: list[Tile]) -> list[tuple[str, Any]]:
        """The features over these tiles."""
        found: list[tuple[str, Any]] = []
        for name, kind, place in self.outputs:
            if kind == "count":
                found.append((name, sum([t[0] for t in tiles])))
            elif kind in ("mean", "sum"):
                n = sum([t[place] for t in tiles])
                value = total([p for t in tiles for p in t[place + 1]]) if n else None
                found.append((name, value / n if value is not None and kind == "mean" else value))
            else:
                best = min if kind == "min" else max
                found.append((name, best((best(t[place]) for t in tiles if t[place]), default=None)))
        return found


def refuse_unknown(views: Sequence[FeatureView]) -> None:
    """Raise `InvalidError` for features that this engine cannot compute yet."""
    for view in views:
        for a in view.aggregates:
            if a.where or a.kind not in ("mean", "sum", "count", "min", "max", "latest") or (a.kind == "count" and a.column):
                raise InvalidError(f"{view.full_name(a)} is {spelled(a)}, which the embedded engine cannot compute")


class ViewPlan:
    """How rows of a view's table change the state of a key, and how the state is read."""

    def __init__(self, view: FeatureView) -> None:
        refuse_unknown([view])
        self.view, self.keys = view, view.keys
        self.fields: list[tuple[str, bool]] = []
        self.windows: list[WindowPlan] = []
        self.latest: list[tuple[str, int, int]] = []
        for aggregate in view.aggregates:
            self._plan(aggregate)
        for window in self.windows:
            window.outputs = [(name, kind, _place(window, kind, i)) for name, kind, i in window.outputs]
        self.ttl = max((ttl for _, _, ttl in self.latest), default=-1)
        self.kept = 2 if view.table.keys else 1
        self.retention = max([w.over + w.hop for w in self.windows] + [self.ttl])
        self.nothing: dict[str, Any] = {}
        """The features of a key that no row has named, at any time."""
        self.read(self.new(), 0, self.nothing)

    def _plan(self, a: Aggregate) -> None:
        name = self.view.full_name(a)
        if a.kind == "latest":
            self.latest.append((name, self._field(str(a.column), number=False), a.ttl_us))
            return
        window = next((w for w in self.windows if (w.over, w.hop) == (a.over_us, a.hop_us)), None)
        if window is None:
            window = WindowPlan(a.over_us, a.hop_us)
            self.windows.append(window)
        i = self._field(a.column, number=True) if a.column else -1
        used = window.ordered if a.kind in ("min", "max") else window.summed
        if a.column and i not in used:
            used.append(i)
        window.outputs.append((name, a.kind, i))

    def _field(self, column: str, *, number: bool) -> int:
        if (column, number) not in self.fields:
            self.fields.append((column, number))
        return self.fields.index((column, number))

    def new(self) -> State:
        """The state of a key that no row has named."""
        n = len(self.windows)
        return State(tiles=[{} for _ in range(n)], memo=[None] * n, lows=[NEVER] * n)

    def unpack(self, body: bytes | None) -> State:
        """The state that `pack` wrote, or that of a key that no row has named."""
        if body is None:
            return self.new()
        clock, ahead, tiles, newest, cut = msgspec.msgpack.decode(body)
        lows = [(clock - w.over) // w.hop for w in self.windows]
        ahead = [(t, n, s, tuple(r)) for t, n, s, r in ahead]
        return State(clock, ahead, tiles, [tuple(r) for r in newest], [None] * len(tiles), lows, cut)

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

    def advance(self, state: State, at: int) -> None:
        """Move the state's clock forward to `at`."""
        state.clock = at
        for i, window in enumerate(self.windows):
            low = (at - window.over) // window.hop
            if low != state.lows[i]:
                self._drop(state, i, low)
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

    def _drop(self, state: State, i: int, low: int) -> None:
        state.lows[i] = low
        tiles = state.tiles[i]
        if old := [n for n in tiles if n < low]:
            state.memo[i] = None
            for n in old:
                del tiles[n]

    def _apply(self, state: State, row: Row, sign: int) -> None:
        event, _, _, values = row
        for i, window in enumerate(self.windows):
            n = (event - 1) // window.hop
            if n < state.lows[i]:
                continue
            state.memo[i] = None
            tiles = state.tiles[i]
            tile = tiles.get(n)
            if tile is None:
                tile = tiles[n] = window.empty()
            window.change(tile, values, sign)
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
        """From when on the state reads as that of a key that no row has named; `FOREVER` for never."""
        found = NEVER
        for window, tiles in zip(self.windows, state.tiles, strict=True):
            if tiles:
                found = max(found, (max(tiles) + 1) * window.hop + window.over + window.hop)
        if state.newest:
            found = max(found, state.newest[-1][0] + self.ttl)
        for visible, _, _, row in state.ahead:
            if visible < FOREVER:
                found = max(found, max(visible, row[0]) + self.retention)
        return found + 1

    def read(self, state: State, at: int, into: dict[str, Any]) -> None:
        """Put the features at `at` into a dict; the state's clock must be there already."""
        for i, window in enumerate(self.windows):
            found = state.memo[i]
            if found is None:
                found = state.memo[i] = window.answer(list(state.tiles[i].values()))
            into.update(found)
        if self.latest:
            row = state.newest[-1] if state.newest else None
            for name, i, ttl in self.latest:
                into[name] = row[3][i] if row is not None and at - row[0] <= ttl else None


def _place(window: WindowPlan, kind: str, field_: int) -> int:
    if kind in ("min", "max"):
        return 1 + 2 * len(window.summed) + window.ordered.index(field_)
    return 1 + 2 * window.summed.index(field_) if field_ >= 0 else 0


def pack(state: State) -> bytes:
    """Bytes of a state, for `ViewPlan.unpack`."""
    return msgspec.msgpack.encode((state.clock, state.ahead, state.tiles, state.newest, state.cut))

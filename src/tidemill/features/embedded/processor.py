"""The embedded stream processor: rows in, online state out."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import not_found
from tidemill.features.embedded import bulk, decode, grouped
from tidemill.features.embedded.memory import REWIND_US, TableMemory, Taken, segments
from tidemill.features.embedded.plans import Plans, key_text, request_key
from tidemill.features.embedded.published import Lookup
from tidemill.features.embedded.tiles import FOREVER, NEVER, State, ViewPlan, pack
from tidemill.features.ports import BulkStore
from tidemill.versioning.ports import Scan

_CACHED = 1_000_000


class TileProcessor:
    """A `StreamProcessor` that keeps states in memory and writes those that changed at `commit`.

    `push` takes rows that become visible later as well, a whole day at once if you like; `read` moves a key's state forward to its
    time. Reads up to `REWIND_US` before the newest one are answered from the rows themselves, which is slower; older ones are
    refused. A process that only pushes says how far time has come with `advance`, before it pushes: rows that are visible by then go
    in by columns, which is quickest, and states stay small. Rows may come in any order, at most the retention of their table after
    they were known. One processor writes to a store; any number of `OnlineReader`s read it. `lookup` finds rows of published tables
    again, for corrections of rows that came in bulk.
    """

    def __init__(self, online: BulkStore, definitions: Definitions, lookup: Lookup | None = None) -> None:
        self._online = online
        self._lock = threading.RLock()
        self._clock = NEVER
        self._plans = Plans(definitions, lookup)
        self._cache: dict[str, dict[Any, State]] = {name: {} for name in self._plans.by_name}
        self._dirty: dict[str, set[Any]] = {name: set() for name in self._plans.by_name}
        self._rewound: dict[tuple[str, Any], State] = {}
        self._tables: dict[str, TableMemory] = {}
        cursors = online.cursors()
        for table in self._plans.tables:
            self._tables[table], clock = self._plans.load(table, online, cursors)
            self._clock = max(self._clock, NEVER if clock is None else clock)

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that some feature view reads."""
        return tuple(self._tables)

    @property
    def stale(self) -> tuple[str, ...]:
        """Tables whose state was made under other definitions; `reset` them and push their rows again (`materialize` does)."""
        return tuple(sorted(self._plans.stale))

    @property
    def clock_us(self) -> int:
        """How far time has come; before the first row and read, long ago."""
        return self._clock

    def retention_us(self, table: str) -> int:
        """How far back rows of a table can matter: its longest window or ttl."""
        return self._tables[table].retention

    def known_us(self, table: str) -> int | None:
        """The greatest known time pushed so far, None before the first row."""
        found = self._tables[table].known_us
        return None if found == NEVER else found

    def check(self, table: str, rows: pa.Table) -> None:
        """Raise `InvalidError` for rows that `push` would refuse: columns that are missing, values that are too large."""
        memory = self._tables.get(table)
        if memory is not None:
            decode.check(memory.table, memory.plans, rows)

    def push(self, table: str, rows: pa.Table) -> int:
        """Take rows of a table; return how many were new and can still count. Tables that no view reads are ignored."""
        with self._lock:
            memory = self._tables.get(table)
            if memory is None:
                return 0
            self._plans.check(table)
            decode.check(memory.table, memory.plans, rows)
            batch = decode.decode(memory.table, memory.plans, rows)
            if self._clock > NEVER:
                batch = memory.recent(batch, self._clock)
            if not len(batch):
                return 0
            memory.note(batch.columns)
            self._rewound.clear()
            taken = memory.take(batch)
            for plan in memory.plans:
                self._add(plan, taken)
            if len(taken.shortened):
                self._shorten(memory, taken)
            return len(taken.batch)

    def load(self, table: str, scan: Scan, *, at_us: int) -> int:
        """Make the state of a table anew from all its rows, as of `at_us`; return how many can still count. `commit` makes it durable."""
        with self._lock:
            self.reset(table)
            memory, at_us = self._tables[table], max(self._clock, at_us)
            batch = bulk.decoded(memory.table, memory.plans, scan)
            memory.note(batch.columns)
            batch, number, end = memory.take_bulk(batch, memory.horizon(at_us), scan.paths)
            self._online.write({}, {table: memory.unfinished()})
            self._clock = at_us
            for plan in memory.plans:
                self._online.fill(plan.view.name, bulk.states(plan, batch, number, end, at_us))
            return len(batch)

    def _add(self, plan: ViewPlan, taken: Taken) -> None:
        batch, end, clock = taken.batch, taken.end, self._clock
        if not len(batch):
            return
        code, keys = decode.keys(plan, batch.columns)
        visible = np.maximum(batch.event, batch.known)
        counts = (code >= 0) & (end > visible) & (end > clock)
        states = self._touch(plan, code[counts], keys)
        now = np.flatnonzero(counts & (visible <= clock) & (end == FOREVER))
        if len(now):
            given = (a[now] for a in (code, batch.event, batch.known, taken.number))
            grouped.add(grouped.Rows(plan, batch.columns.take(pa.array(now)), *given), states, clock)
            counts[now] = False
        later = np.flatnonzero(counts)
        if len(later):
            made = decode.values(plan, batch.columns.take(pa.array(later)))
            columns = (a[later].tolist() for a in (code, batch.event, batch.known, taken.number, visible, end))
            for key, event, known, number, seen, until, row in zip(*columns, made, strict=True):
                state = states[key]
                assert state is not None
                plan.add(state, (event, known, number, row), seen, until)

    def _touch(self, plan: ViewPlan, code: Any, keys: Sequence[Any]) -> list[State | None]:
        """The states of the keys with these codes, moved forward to the clock; they will be written."""
        states: list[State | None] = [None] * len(keys)
        used = np.unique(code).tolist()
        found = self._states(plan, [keys[i] for i in used])
        dirty, clock, lows = self._dirty[plan.view.name], self._clock, plan.lows(self._clock)
        for i, state in zip(used, found, strict=True):
            states[i] = state
            dirty.add(keys[i])
            if state.clock < clock:
                plan.advance(state, clock, lows)
                if state.lost is not None:
                    self._renew(plan, keys[i], state)
        return states

    def _shorten(self, memory: TableMemory, taken: Taken) -> None:
        """Rows that are remembered have been corrected: they count until the news of it only."""
        place, columns = taken.shortened, memory.corrected(taken)
        for plan in memory.plans:
            code, keys = decode.keys(plan, columns)
            states = self._touch(plan, code[code >= 0], keys)
            rows = memory.as_rows(plan, place, columns, taken.old_end)
            for key, (row, visible, old), new in zip(code.tolist(), rows, taken.new_end.tolist(), strict=True):
                if key >= 0 and (state := states[key]) is not None:
                    plan.shorten(state, row, visible, old, new)
            for key, state in zip(keys, states, strict=True):
                if state is not None:
                    self._renew(plan, key, state)

    def _states(self, plan: ViewPlan, keys: Sequence[Any]) -> list[State]:
        cache = self._cache[plan.view.name]
        if missing := [key for key in keys if key not in cache]:
            for key, body in zip(missing, self._online.read([(plan.view.name, key_text(key)) for key in missing]), strict=True):
                state = cache[key] = plan.unpack(body)
                if body is None and self._clock > NEVER:
                    plan.advance(state, self._clock)
        return [cache[key] for key in keys]

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values at `at_us`. Raises `InvalidError` for a time whose rows are forgotten."""
        plans = [self._plans.of(v) for v in views]
        with self._lock:
            self._clock = max(self._clock, at_us)
            answers: list[dict[str, Any]] = []
            for request in keys:
                answer: dict[str, Any] = {}
                for plan in plans:
                    key = request_key(plan, request)
                    state = plan.new() if key is None else self._states(plan, [key])[0]
                    if at_us > state.clock:
                        self._forward(plan, key, state, at_us)
                    elif at_us < state.clock:
                        state = self._rewind(plan, key, at_us)
                    plan.read(state, at_us, answer)
                answers.append(answer)
            return answers

    def _forward(self, plan: ViewPlan, key: Any, state: State, at: int) -> None:
        plan.advance(state, at)
        self._renew(plan, key, state)

    def _renew(self, plan: ViewPlan, key: Any, state: State) -> None:
        if state.lost is not None:
            plan.renew(state, self._tables[plan.view.table.name].history(plan, key, state.clock))

    def _rewind(self, plan: ViewPlan, key: Any, at: int) -> State:
        state = self._rewound.get((plan.view.name, key))
        if state is None or state.clock > at:
            history = self._tables[plan.view.table.name].history(plan, key, at)
            state = self._rewound[plan.view.name, key] = plan.rebuild(history, at)
        elif state.clock < at:
            self._forward(plan, key, state, at)
        return state

    def advance(self, at_us: int) -> None:
        """Say that time has come to `at_us`; the next `commit` tidies what changed up to there."""
        with self._lock:
            self._clock = max(self._clock, at_us)

    def commit(self) -> None:
        """Write changed states, the rows behind them and the cursors in one transaction."""
        with self._lock:
            states: dict[tuple[str, str], bytes] = {}
            due: dict[tuple[str, str], int] = {}
            for name, keys in self._dirty.items():
                plan, cache, clock = self._plans.by_name[name], self._cache[name], self._clock
                lows = plan.lows(clock)
                for key in keys:
                    state = cache[key]
                    if state.clock < clock:
                        plan.advance(state, clock, lows)
                        self._renew(plan, key, state)
                    place = name, key_text(key)
                    states[place], due[place] = pack(state), plan.horizon(state) + REWIND_US
            cursors = {}
            for name, memory in self._tables.items():
                memory.forget(self._clock)
                log, cursors[name] = memory.save(self._clock)
                states |= log
            self._online.write(states, cursors, due)
            for memory in self._tables.values():
                for segment in memory.drop_dead():
                    self._online.clear(segment)
            self._tidy()

    def _tidy(self) -> None:
        self._rewound.clear()
        for name in self._dirty:
            self._dirty[name].clear()
            if len(self._cache[name]) > _CACHED:
                self._cache[name].clear()

    def reset(self, table: str) -> None:
        """Forget all that came from a table, because its views changed; its rows have to be pushed again."""
        with self._lock:
            if table not in self._tables:
                raise not_found("table with feature views", table, self._tables)
            memory = self._tables[table]
            text = self._online.cursors().get(table)
            for name, _ in segments(memory.table, json.loads(text)) if text else ():
                self._online.clear(name)
            for plan in memory.plans:
                self._online.clear(plan.view.name)
                self._cache[plan.view.name].clear()
                self._dirty[plan.view.name].clear()
            self._online.clear(table)
            self._tables[table] = self._plans.memory(table)
            self._plans.stale.discard(table)

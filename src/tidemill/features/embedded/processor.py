"""The embedded stream processor: rows in, online state out."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import not_found
from tidemill.features.embedded import decode
from tidemill.features.embedded.memory import REWIND_US, Kept, TableMemory, segments
from tidemill.features.embedded.plans import Plans, key_text, request_key
from tidemill.features.embedded.tiles import NEVER, State, ViewPlan, pack
from tidemill.features.ports import OnlineStore

_CACHED = 1_000_000


class TileProcessor:
    """A `StreamProcessor` that keeps states in memory and writes those that changed at `commit`.

    `push` takes rows that become visible later as well, a whole day at once if you like; `read` moves a key's state forward to its
    time. Reads up to `REWIND_US` before the newest one are answered from the rows themselves, which is slower; older ones are
    refused. A process that only pushes says how far time has come with `advance`, so that states stay small. Rows may come in any
    order, at most the retention of their table after they were known. One processor writes to a store; any number of
    `OnlineReader`s read it.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:
        self._online = online
        self._lock = threading.RLock()
        self._clock = NEVER
        self._plans = Plans(definitions)
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
            self._rewound.clear()
            decode.check(memory.table, memory.plans, rows)
            if self._clock > NEVER:
                rows = decode.recent(memory.table, rows, memory.horizon(self._clock), memory)
            new = 0
            for taken in decode.rows(memory.table, memory.plans, rows):
                answer = memory.take(taken)
                if answer is not None:
                    new += 1
                    self._place(memory, *answer)
            return new

    def _place(self, memory: TableMemory, kept: Kept, end: int, before: Kept | None) -> None:
        known, number, event, _, parts = kept
        visible = max(known, event)
        for plan, part in zip(memory.plans, parts, strict=True):
            if part is not None:
                plan.add(self._touch(plan, part[0]), (event, known, number, part[1]), visible, end)
        if before is None:
            return
        earlier, number, event, _, parts = before
        for plan, part in zip(memory.plans, parts, strict=True):
            if part is not None:
                row = (event, earlier, number, part[1])
                plan.shorten(self._touch(plan, part[0]), row, max(event, earlier), end, known)

    def _touch(self, plan: ViewPlan, key: Any) -> State:
        self._dirty[plan.view.name].add(key)
        return self._state(plan, key)

    def _state(self, plan: ViewPlan, key: Any) -> State:
        cache = self._cache[plan.view.name]
        state = cache.get(key)
        if state is None:
            body = self._online.read([(plan.view.name, key_text(key))])[0]
            state = cache[key] = plan.unpack(body)
            if body is None and self._clock > NEVER:
                plan.advance(state, self._clock)
        return state

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
                    state = plan.new() if key is None else self._state(plan, key)
                    if at_us > state.clock:
                        plan.advance(state, at_us)
                    elif at_us < state.clock:
                        state = self._rewind(plan, key, at_us)
                    plan.read(state, at_us, answer)
                answers.append(answer)
            return answers

    def _rewind(self, plan: ViewPlan, key: Any, at: int) -> State:
        state = self._rewound.get((plan.view.name, key))
        if state is None or state.clock > at:
            history = self._tables[plan.view.table.name].history(plan, key, at)
            state = self._rewound[plan.view.name, key] = plan.rebuild(history, at)
        elif state.clock < at:
            plan.advance(state, at)
        return state

    def advance(self, at_us: int) -> None:
        """Say that no read will ask for a time before `at_us` any more; the next `commit` tidies what changed up to there."""
        with self._lock:
            self._clock = max(self._clock, at_us)

    def commit(self) -> None:
        """Write changed states, the rows behind them and the cursors in one transaction."""
        with self._lock:
            states: dict[tuple[str, str], bytes] = {}
            due: dict[tuple[str, str], int] = {}
            for name, keys in self._dirty.items():
                plan, cache = self._plans.by_name[name], self._cache[name]
                for key in keys:
                    state = cache[key]
                    if state.clock < self._clock:
                        plan.advance(state, self._clock)
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

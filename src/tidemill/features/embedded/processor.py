"""The embedded stream processor: rows in, online state out, read in process or from another one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import format_instant
from tidemill.features.embedded import decode
from tidemill.features.embedded.memory import Kept, TableMemory, segments
from tidemill.features.embedded.tiles import NEVER, State, ViewPlan, pack, unpack
from tidemill.features.ports import OnlineStore
from tidemill.features.views import table_digest, view_digest

_CACHED = 1_000_000


class TileProcessor:
    """A `StreamProcessor` that keeps states in memory and writes those that changed at `commit`.

    `push` takes rows that become visible later as well, a whole day at once if you like; `read` moves a key's state forward to its
    time, so reads of one key never go back. A process that only pushes says how far time has come with `advance`, so that states
    stay small. One processor writes to a store; any number of `OnlineReader`s read it.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:
        self._online = online
        self._lock = threading.RLock()
        self._clock = NEVER
        self._plans = {v.name: ViewPlan(v) for v in definitions.views.values()}
        self._cache: dict[str, dict[Any, State]] = {name: {} for name in self._plans}
        self._dirty: dict[str, set[Any]] = {name: set() for name in self._plans}
        self._tables: dict[str, TableMemory] = {}
        self._stale: set[str] = set()
        cursors = online.cursors()
        for table in {v.table.name: v.table for v in definitions.views.values()}.values():
            plans = [p for p in self._plans.values() if p.view.table.name == table.name]
            self._tables[table.name] = TableMemory(table, plans, table_digest([p.view for p in plans]))
            self._open(table.name, cursors.get(table.name))

    def _open(self, table: str, text: str | None) -> None:
        if text is None:
            return
        memory, cursor = self._tables[table], json.loads(text)
        if cursor["digest"] == memory.digest:
            memory.load(cursor, self._online.read(segments(memory.table, cursor)))
        else:
            self._stale.add(table)

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that some feature view reads."""
        return tuple(self._tables)

    @property
    def stale(self) -> tuple[str, ...]:
        """Tables whose state was made under other definitions; `reset` them and push their rows again (`materialize` does)."""
        return tuple(sorted(self._stale))

    def retention_us(self, table: str) -> int:
        """How far back rows of a table can matter: its longest window or ttl."""
        return self._tables[table].retention

    def known_us(self, table: str) -> int | None:
        """The greatest known time pushed so far, None before the first row."""
        found = self._tables[table].known_us
        return None if found == NEVER else found

    def push(self, table: str, rows: pa.Table) -> int:
        """Take rows of a table. Tables that no view reads are accepted and ignored."""
        with self._lock:
            memory = self._tables.get(table)
            if memory is None:
                return 0
            check_fresh(table, self._stale)
            new = 0
            for taken in decode.rows(memory.table, memory.plans, rows):
                answer = memory.take(taken)
                if answer is not None:
                    new += 1
                    self._place(memory, *answer)
            return new

    def _place(self, memory: TableMemory, kept: Kept, end: int, before: Kept | None) -> None:
        known, number, event, _, parts = kept
        visible = event if event > known else known
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
            state = cache[key] = unpack(body) if body else plan.new()
        return state

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values at `at_us`. Raises `InvalidError` for a time before one at which the same key was read."""
        plans = [_plan(self._plans, v, self._stale) for v in views]
        with self._lock:
            self._clock = max(self._clock, at_us)
            answers: list[dict[str, Any]] = []
            for request in keys:
                answer: dict[str, Any] = {}
                for plan in plans:
                    key = request_key(plan, request)
                    read_state(plan, plan.new() if key is None else self._state(plan, key), at_us, answer)
                answers.append(answer)
            return answers

    def advance(self, at_us: int) -> None:
        """Say that no read will ask for a time before `at_us` any more; the next `commit` tidies what changed up to there."""
        with self._lock:
            self._clock = max(self._clock, at_us)

    def commit(self) -> None:
        """Write changed states, the rows behind them and the cursors in one transaction."""
        with self._lock:
            states: dict[tuple[str, str], bytes] = {}
            for name, keys in self._dirty.items():
                plan, cache = self._plans[name], self._cache[name]
                for key in keys:
                    state = cache[key]
                    if state.clock < self._clock:
                        plan.advance(state, self._clock)
                    states[name, key_text(key)] = pack(state)
            cursors = {}
            for name, memory in self._tables.items():
                memory.forget(self._clock - memory.retention)
                log, cursors[name] = memory.save(self._clock)
                states |= log
            self._online.write(states, cursors)
            for memory in self._tables.values():
                for segment in memory.drop_dead():
                    self._online.clear(segment)
            self._tidy()

    def _tidy(self) -> None:
        for name in self._plans:
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
            self._tables[table] = TableMemory(memory.table, memory.plans, memory.digest)
            self._stale.discard(table)


class OnlineReader:
    """Reads what a `TileProcessor` in another process has committed; keeps nothing, so it is always as new as the store."""

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:
        self._online = online
        self._plans = {v.name: ViewPlan(v) for v in definitions.views.values()}
        self._stale: set[str] = set()
        for table, text in online.cursors().items():
            views = [v for v in definitions.views.values() if v.table.name == table]
            if views and json.loads(text)["digest"] != table_digest(views):
                self._stale.add(table)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values at `at_us`, which is not before the time the writer has advanced to."""
        plans = [_plan(self._plans, v, self._stale) for v in views]
        asked = [(plan, request_key(plan, request)) for request in keys for plan in plans]
        found = iter(self._online.read([(p.view.name, key_text(k)) for p, k in asked if k is not None]))
        bodies = [None if key is None else next(found) for _, key in asked]
        answers: list[dict[str, Any]] = [{} for _ in keys]
        for i, ((plan, _), body) in enumerate(zip(asked, bodies, strict=True)):
            read_state(plan, unpack(body) if body else plan.new(), at_us, answers[i // len(plans)])
        return answers


def key_text(key: Any) -> str:
    """How a key is spelled in the store."""
    parts = key if isinstance(key, tuple) else (key,)
    return msgspec.json.encode([int(p) if isinstance(p, float) and p.is_integer() else p for p in parts]).decode()


def request_key(plan: ViewPlan, request: Mapping[str, Any]) -> Any:
    """The key of a view in a request, None where a part of it is null. Raises `InvalidError` when a part is not there."""
    try:
        values = [request[k] for k in plan.view.keys]
    except KeyError as error:
        raise InvalidError(f"the request lacks {error.args[0]!r}, a key of feature view {plan.view.name!r}") from None
    if None in values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def read_state(plan: ViewPlan, state: State, at: int, into: dict[str, Any]) -> None:
    """Move a state to `at` and read it."""
    if at > state.clock:
        plan.advance(state, at)
    elif at < state.clock:
        raise InvalidError(
            f"feature view {plan.view.name!r} was read at {format_instant(state.clock)} already and cannot go back to {format_instant(at)}; "
            "ask the offline store for the past"
        )
    plan.read(state, at, into)


def check_fresh(table: str, stale: set[str]) -> None:
    """Raise `InvalidError` when the online state of a table was made under other definitions."""
    if table in stale:
        raise InvalidError(
            f"the feature views of table {table!r} have changed since their online state was made; run `tidemill features materialize`"
        )


def _plan(plans: Mapping[str, ViewPlan], view: FeatureView, stale: set[str]) -> ViewPlan:
    plan = plans.get(view.name)
    if plan is None:
        raise not_found("feature view", view.name, plans)
    if plan.view is not view and view_digest(plan.view) != view_digest(view):
        raise InvalidError(f"feature view {view.name!r} is not the one this processor was opened with; open it with the new definitions")
    check_fresh(view.table.name, stale)
    return plan

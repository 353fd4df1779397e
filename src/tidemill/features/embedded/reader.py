"""Reading online state from a process that does not write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.features.embedded.memory import TableMemory
from tidemill.features.embedded.plans import Plans, key_text, request_key
from tidemill.features.embedded.tiles import ViewPlan
from tidemill.features.ports import OnlineStore


class OnlineReader:
    """A `FeatureReader` of what a `TileProcessor` in another process has committed; keeps no state, so it is as new as the store.

    A time before the writer's clock is answered from the rows that the writer remembers, as the writer does; that is slower.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:
        self._online = online
        self._plans = Plans(definitions)
        self._memories: dict[str, tuple[str, TableMemory]] = {}
        cursors = online.cursors()
        for table in self._plans.tables:
            self._plans.load(table, online, cursors)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values by full name for each request."""
        plans = [self._plans.of(v) for v in views]
        asked = [(plan, request_key(plan, request)) for request in keys for plan in plans]
        found = iter(self._online.read([(p.view.name, key_text(k)) for p, k in asked if k is not None]))
        answers: list[dict[str, Any]] = [{} for _ in keys]
        for i, (plan, key) in enumerate(asked):
            state = plan.unpack(None if key is None else next(found))
            if at_us < state.clock:
                state = plan.rebuild(self._memory(plan).history(plan, key, at_us), at_us)
            else:
                plan.advance(state, at_us)
            plan.read(state, at_us, answers[i // len(plans)])
        return answers

    def _memory(self, plan: ViewPlan) -> TableMemory:
        table, cursors = plan.view.table.name, self._online.cursors()
        kept = self._memories.get(table)
        if kept is None or kept[0] != cursors[table]:
            kept = self._memories[table] = (cursors[table], self._plans.load(table, self._online, cursors)[0])
        return kept[1]

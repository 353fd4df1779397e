"""Online state as a feature server asks for it: values of the present with where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.instants import HOUR_US
from tidemill.features.embedded.asked import Asking
from tidemill.features.embedded.asked import Found as States
from tidemill.features.embedded.sights import Sight, Sights
from tidemill.features.embedded.tail import Tail
from tidemill.features.ports import Found, OnlineStore
from tidemill.ingestion.ports import Stream


class OnlineLookup:
    """A `FeatureLookup` of what a processor in another process has committed, and of what was pushed since.

    Where the writer's clock is ahead of `at_us` (two machines), the writer's counts.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions, stream: Stream | None = None, *, skew_us: int = HOUR_US) -> None:
        self._asking = Asking(online)
        self._sights = Sights(online, definitions.views.values())
        self.tail = Tail(stream, definitions.views.values(), skew_us) if stream is not None else None

    def find(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[list[Found]]:
        """What there is for each request, view by view."""
        shape = self._asking.shape(tuple([self._sights.of(v) for v in views]))
        if self.tail is not None:
            self.tail.look()
        said, found = self._asking.ask(shape, keys)
        if len(shape.published) == len(said):
            self._sights.clocks(shape.sights, said)
        else:
            self._sights.clocks([shape.sights[i] for i in shape.published], [said[i] for i in shape.published])
        columns = [self._column(sight, states, at_us) for sight, states in zip(shape.sights, found, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in keys]

    def look(self) -> None:
        """See what has been pushed up to now."""
        if self.tail is not None:
            self.tail.look(now=True)

    def _column(self, sight: Sight, states: States, at_us: int) -> list[Found]:
        """What there is of a view for each request."""
        keys, bodies = states
        if self.tail is not None and not self.tail.empty:
            return [self._found(sight, key, body, at_us) for key, body in zip(keys, bodies, strict=True)]
        names, rows = sight.plan.names, sight.plan.glance(bodies, at_us)
        return [
            Found(dict(zip(names, row[3], strict=True)), row[0], True) if row is not None else self._found(sight, key, body, at_us)
            for key, body, row in zip(keys, bodies, rows, strict=True)
        ]

    def _found(self, sight: Sight, key: Any, body: bytes | None, at_us: int) -> Found:
        plan, values = sight.plan, dict[str, Any]()
        state = plan.unpack(body)
        at = max(at_us, state.clock)
        newest = state.newest[-1] if state.newest else None
        plan.advance(state, at)
        if state.lost is not None:
            plan.renew(state, self._sights.memory(sight).history(plan, key, at))
        plan.read(state, at, values)
        newest = state.newest[-1] if state.newest else newest
        event, known = (newest[0], newest[1]) if newest is not None else (0, 0)
        told = body is not None and (newest is not None or not state.ahead or any(state.tiles))
        if self.tail is not None and not self.tail.empty and key is not None:
            row = self.tail.newest(plan.view.name, key, at, (event, known))
            if row is not None:
                event, told = row.event_us, True
                for name, value in row.values.items():
                    values[name] = value if at - event <= self.tail.ttl_us[name] else None
        return Found(values, event, told)

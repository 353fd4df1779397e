"""Online state as a feature server asks for it: values of the present with where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.instants import HOUR_US
from tidemill.features.embedded.plans import key_text, request_key
from tidemill.features.embedded.sights import Sight, Sights
from tidemill.features.embedded.tail import Tail
from tidemill.features.ports import Found, OnlineStore
from tidemill.ingestion.ports import Stream


class OnlineLookup:
    """A `FeatureLookup` of what a processor in another process has committed, and of what was pushed since.

    Where the writer's clock is ahead of `at_us` (two machines), the writer's counts.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions, stream: Stream | None = None, *, skew_us: int = HOUR_US) -> None:
        self._online = online
        self._sights = Sights(online, definitions.views.values())
        self.tail = Tail(stream, definitions.views.values(), skew_us) if stream is not None else None

    def find(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[list[Found]]:
        """What there is for each request, view by view."""
        sights = [self._sights.of(v) for v in views]
        plans = [sight.plan for sight in sights]
        asked = [[request_key(plan, request) for plan in plans] for request in keys]
        texts = {key: key_text(key) for row in asked for key in row}
        told = [sight for sight in sights if sight.place.status == "published"]
        wanted = [sight.place.sentinel for sight in told]
        wanted += [(sight.stored, texts[key]) for row in asked for sight, key in zip(sights, row, strict=True) if key is not None]
        if self.tail is not None:
            self.tail.look()
        bodies = iter(self._online.read(wanted))
        for sight in told:
            self._sights.clock(sight, next(bodies))
        return [
            [self._found(sight, key, None if key is None else next(bodies), at_us) for sight, key in zip(sights, row, strict=True)]
            for row in asked
        ]

    def look(self) -> None:
        """See what has been pushed up to now."""
        if self.tail is not None:
            self.tail.look(now=True)

    def _found(self, sight: Sight, key: Any, body: bytes | None, at_us: int) -> Found:
        plan, values = sight.plan, dict[str, Any]()
        if body is not None and (self.tail is None or self.tail.empty):
            (glanced,) = plan.glance([body], at_us, [values])
            if glanced is not None:
                return Found(values, glanced, True)
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

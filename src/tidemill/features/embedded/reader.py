"""Reading online state from a process that does not write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.features.embedded.places import current, places
from tidemill.features.embedded.plans import key_text, request_key
from tidemill.features.embedded.sights import Sights
from tidemill.features.ports import OnlineStore


class OnlineReader:
    """A `FeatureReader` of what a `ViewProcessor` in another process has committed; keeps no state, so it is as new as the store.

    Whatever version of a view it is asked for, it answers from that version's state or not at all. A time before the writer's clock is
    answered from the rows that the writer remembers, as the writer does; that is slower.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:  # noqa: ARG002 - what it reads is what it is asked for
        self._online = online
        self._sights = Sights(online)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values by full name for each request."""
        sights = [self._sights.of(v) for v in views]
        asked = [(sight, request_key(sight.plan, request)) for request in keys for sight in sights]
        bodies = self._online.read([(s.stored, key_text(k)) for s, k in asked if k is not None])
        if None in bodies:
            self._sights.still_there(sights)
        found = iter(bodies)
        answers: list[dict[str, Any]] = [{} for _ in keys]
        for i, (sight, key) in enumerate(asked):
            plan = sight.plan
            state = plan.unpack(None if key is None else next(found))
            if at_us < state.clock:
                state = plan.rebuild(self._sights.memory(sight).history(plan, key, at_us), at_us)
            else:
                plan.advance(state, at_us)
            plan.read(state, at_us, answers[i // len(sights)])
        return answers

    def current(self, view: str) -> FeatureView | None:
        """The version of a view that is current, None where nothing is published."""
        cursors = self._online.cursors()
        name = current(cursors).get(view)
        return next((p.view for p in places(cursors) if p.name == name), None)

    def version(self, digest: str) -> FeatureView | None:
        """The version of a view with a digest, None unless it is published."""
        return next((p.view for p in places(self._online.cursors()) if p.digest == digest and p.status == "published"), None)

    def known_us(self) -> dict[str, int]:
        """The greatest known time in the current state of each view that has rows, by view name."""
        cursors = self._online.cursors()
        served = current(cursors)
        return {p.view.name: p.known_us for p in places(cursors) if p.known_us is not None and served.get(p.view.name) == p.name}

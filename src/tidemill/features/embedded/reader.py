"""Reading online state from a process that does not write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.places import current, places
from tidemill.features.embedded.plans import key_text, request_key
from tidemill.features.embedded.sights import Sight, Sights
from tidemill.features.ports import MAX_KEYS, OnlineStore


class OnlineReader:
    """A `FeatureReader` of what a `ViewProcessor` in another process has committed; keeps no state, so it is as new as the store.

    Each read asks the store once, for states and for what versions say of themselves: whatever version of a view it is asked for, it
    answers from that version's state or not at all. A time before the writer's clock is answered from the rows that the writer
    remembers, as the writer does; that is slower.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:  # noqa: ARG002 - what it reads is what it is asked for
        self._online = online
        self._sights = Sights(online)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values by full name for each request.

        Raises:
            InvalidError: a request lacks a key, there are more than `MAX_KEYS`, the time is too long ago, or a version may not be read.
            UnavailableError: the store does not answer, or has lost state (`LostError`).
        """
        if len(keys) > MAX_KEYS:
            raise InvalidError(f"{len(keys)} keys in one read; ask for {MAX_KEYS} at most at once")
        sights = [self._sights.of(v) for v in views]
        wanted = [s.place.sentinel for s in sights]
        spelled: dict[tuple[str, ...], tuple[list[Any], list[str]]] = {}
        for sight in sights:
            of = sight.plan.keys
            if of not in spelled:
                spelled[of] = _spelled(sight, keys)
            wanted += zip(repeat(sight.stored), spelled[of][1])
        found = self._online.read(wanted)
        clocks = [*map(self._sights.clock, sights, found)]
        start = len(sights)
        answers: list[dict[str, Any]] = [{} for _ in keys]
        for sight, clock in zip(sights, clocks, strict=True):
            asked, texts = spelled[sight.plan.keys]
            bodies, start = found[start : start + len(texts)], start + len(texts)
            if len(texts) < len(asked):
                rest = iter(bodies)
                bodies = [None if key is None else next(rest) for key in asked]
            events = sight.plan.glance(bodies, at_us, answers)
            if None in events:
                for i, event in enumerate(events):
                    if event is None:
                        self._answer(sight, asked[i], bodies[i], clock, at_us, answers[i])
        return answers

    def _answer(self, sight: Sight, key: Any, body: bytes | None, clock: int, at_us: int, into: dict[str, Any]) -> None:
        plan = sight.plan
        if body is None and at_us >= clock:
            into.update(plan.nothing)
            return
        state = None if body is None else plan.unpack(body)
        if state is None or at_us < state.clock:
            state = plan.rebuild(self._sights.memory(sight).history(plan, key, at_us), at_us)
        else:
            plan.advance(state, at_us)
            if state.lost is not None:
                plan.renew(state, self._sights.memory(sight).history(plan, key, at_us))
        plan.read(state, at_us, into)

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


def _spelled(sight: Sight, requests: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[str]]:
    """The key of each request, None where a part of it is null; and how those that are not are spelled in the store."""
    name, plan = sight.single, sight.plan
    found = [request.get(name) for request in requests] if name else [None] * len(requests)
    if None in found:
        found = [request_key(plan, request) if key is None else key for key, request in zip(found, requests, strict=True)]
    return found, [key_text(key) for key in found if key is not None]

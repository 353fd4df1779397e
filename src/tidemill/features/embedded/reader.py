"""Reading online state from a process that does not write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        asked: list[tuple[Sight, Any]] = []
        for request in keys:
            for sight in sights:
                key = request.get(sight.single) if sight.single else None
                if key is None:
                    key = request_key(sight.plan, request)
                asked.append((sight, key))
                if key is not None:
                    wanted.append((sight.stored, key_text(key)))
        found = iter(self._online.read(wanted))
        clocks = {id(s): self._sights.clock(s, next(found)) for s in sights}
        answers: list[dict[str, Any]] = [{} for _ in keys]
        n = len(sights)
        for i, (sight, key) in enumerate(asked):
            body = None if key is None else next(found)
            if body is None and at_us >= clocks[id(sight)]:
                answers[i // n].update(sight.plan.nothing)
            elif body is None or sight.plan.glance(body, at_us, answers[i // n]) is None:
                self._answer(sight, key, body, at_us, answers[i // n])
        return answers

    def _answer(self, sight: Sight, key: Any, body: bytes | None, at_us: int, into: dict[str, Any]) -> None:
        plan = sight.plan
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

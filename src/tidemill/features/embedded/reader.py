"""Reading online state from a process that does not write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.asked import Asking, Found
from tidemill.features.embedded.places import current, places
from tidemill.features.embedded.sights import Sight, Sights
from tidemill.features.ports import MAX_KEYS, OnlineStore


class OnlineReader:
    """A `FeatureReader` of what a `ViewProcessor` in another process has committed; keeps no state, so it is as new as the store.

    Each read asks the store once, for states and for what versions say of themselves: whatever version of a view it is asked for, it
    answers from that version's state or not at all. A time before the writer's clock is answered from the rows that the writer
    remembers, as the writer does; that is slower.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions) -> None:  # noqa: ARG002 - what it reads is what it is asked for
        self._online, self._asking = online, Asking(online)
        self._sights = Sights(online)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values by full name for each request.

        Raises:
            InvalidError: a request lacks a key, there are more than `MAX_KEYS`, the time is too long ago, or a version may not be read.
            UnavailableError: the store does not answer, or has lost state (`LostError`).
        """
        if len(keys) > MAX_KEYS:
            raise InvalidError(f"{len(keys)} keys in one read; ask for {MAX_KEYS} at most at once")
        shape = self._asking.shape(tuple([self._sights.of(v) for v in views]))
        said, found = self._asking.ask(shape, keys)
        clocks = self._sights.clocks(shape.sights, said)
        if not clocks:
            return [{} for _ in keys]
        columns, names = [*map(self._column, shape.sights, found, clocks, repeat(at_us))], shape.names
        # without `strict` here: there are as many values as names, and the keyword costs half as much again
        return [dict(zip(names, chain.from_iterable(row))) for row in zip(*columns)]  # noqa: B905

    def _column(self, sight: Sight, found: Found, clock: bytes, at_us: int) -> list[Sequence[Any]]:
        """The features of a view for each request, in the order of its plan's `names`."""
        keys, bodies = found
        rows = sight.plan.glance(bodies, at_us)
        shown = [row[3] for row in rows if row is not None]
        if len(shown) == len(rows):
            return shown
        return [
            row[3] if row is not None else self._values(sight, key, body, clock, at_us)
            for key, body, row in zip(keys, bodies, rows, strict=True)
        ]

    def _values(self, sight: Sight, key: Any, body: bytes | None, clock: bytes, at_us: int) -> Sequence[Any]:
        plan = sight.plan
        if body is None and at_us >= int(clock):
            return plan.blank
        state = None if body is None else plan.unpack(body)
        if state is None or at_us < state.clock:
            state = plan.rebuild(self._sights.memory(sight).history(plan, key, at_us), at_us)
        else:
            plan.advance(state, at_us)
            if state.lost is not None:
                plan.renew(state, self._sights.memory(sight).history(plan, key, at_us))
        features: dict[str, Any] = {}
        plan.read(state, at_us, features)
        return [*features.values()]

    def current(self, view: str) -> FeatureView | None:
        """The version of a view that is current, None where nothing is published."""
        cursors = self._online.cursors()
        name = current(cursors).get(view)
        return next((p.view for p in places(cursors) if p.name == name), None)

    def version(self, digest: str) -> FeatureView | None:
        """The version of a view with a digest, None unless it is published."""
        return next((p.view for p in places(self._online.cursors()) if p.digest == digest and p.status == "published"), None)

    def whole_keys(self, views: Sequence[FeatureView]) -> frozenset[str]:
        """The columns among the views' keys that are whole numbers in the rows, as far as anybody knows."""
        sights = [self._sights.of(v) for v in views]
        return frozenset(key for sight in sights for key, kind in zip(sight.plan.keys, sight.kinds, strict=True) if kind == "int64")

    def known_us(self) -> dict[str, int]:
        """The greatest known time in the current state of each view that has rows, by view name."""
        cursors = self._online.cursors()
        served = current(cursors)
        return {p.view.name: p.known_us for p in places(cursors) if p.known_us is not None and served.get(p.view.name) == p.name}

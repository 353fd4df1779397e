"""Where the online state of each version of a view is: names in the store, and what is written beside it.

A version's place is `name@digest`. Everything of it is stored under names that begin with the place, so versions never meet. A cursor
named like the place says what the version means and how far it is; `current:NAME` names the place that readers by name get. A small
state, the sentinel, says whether the version may be read: who finds no state of a key looks whether it still may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.digests import PREFIX
from tidemill.core.meaning import view_body, view_digest, view_from
from tidemill.features.ports import BulkStore, OnlineStore, States, Status

SENTINEL = "alive"
"""Key of the sentinel of a version, whose view is the place."""
_DEAD = b""
"""Body of the sentinel of a version that may not be read; of others it is the writer's clock."""
_CURRENT = "current:"
Written = tuple[dict[tuple[str, str], bytes], dict[str, str]]
"""States and cursors."""


@dataclass(slots=True)
class Place:
    """One version of a view in a store."""

    view: FeatureView
    digest: str
    status: Status
    known_us: int | None = None
    mark: str = ""
    turn: int = 0
    clock_us: int = 0

    @property
    def name(self) -> str:
        """What the names of its states and cursors begin with."""
        return f"{self.view.name}@{self.digest.removeprefix(PREFIX)[:16]}"

    @property
    def sentinel(self) -> tuple[str, str]:
        """The state that says whether this version may be read."""
        return self.name, SENTINEL

    def record(self) -> str:
        """The text of the cursor that says what this version is."""
        return json.dumps(
            {
                "body": view_body(self.view),
                "digest": self.digest,
                "status": self.status,
                "known_us": self.known_us,
                "mark": self.mark,
                "turn": self.turn,
                "clock_us": self.clock_us,
            }
        )

    def written(self, *, current: bool = False) -> Written:
        """What the store has to say of this version: its sentinel, its record and, if it is to be the current one, that."""
        cursors = {self.name: self.record()}
        if current:
            cursors[_CURRENT + self.view.name] = self.name
        return {self.sentinel: b"%d" % self.clock_us if self.status == "published" else _DEAD}, cursors

    def alone(self) -> Definitions:
        """Definitions of nothing but this view."""
        return Definitions(views={self.view.name: self.view})


def new_place(view: FeatureView, status: Status = "absent") -> Place:
    """The place of a view as it is defined now."""
    return Place(view, view_digest(view), status)


def places(cursors: Mapping[str, str]) -> Iterator[Place]:
    """All versions that a store has."""
    for name, text in sorted(cursors.items()):
        if "@" in name and "/" not in name and not name.startswith(_CURRENT):
            found = json.loads(text)
            given = (found[name] for name in ("digest", "status", "known_us", "mark", "turn", "clock_us"))
            yield Place(view_from(found["body"]), *given)


def current(cursors: Mapping[str, str]) -> dict[str, str]:
    """The name of the current place of each view."""
    return {name.removeprefix(_CURRENT): text for name, text in cursors.items() if name.startswith(_CURRENT)}


class Scoped:
    """The part of an online store that belongs to a place. What `beside` gives goes into the transaction of every write."""

    def __init__(self, online: OnlineStore, place: str, beside: Callable[[], Written] = lambda: ({}, {})) -> None:
        self._online, self._prefix, self._beside = online, f"{place}/", beside

    def write(
        self, states: Mapping[tuple[str, str], bytes], cursors: Mapping[str, str], expires_us: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        """Write under the place's names."""
        prefix, (also, besides) = self._prefix, self._beside()
        full = {view: prefix + view for view in {view for view, _ in states}}
        bodies = {(full[view], key): body for (view, key), body in states.items()}
        bodies.update(also)
        due = {(full[view], key): at for (view, key), at in (expires_us or {}).items() if view in full}
        self._online.write(bodies, {prefix + name: text for name, text in cursors.items()} | besides, due)

    def fill(self, view: str, batches: Iterable[States]) -> None:
        """Write many states under one of the place's names, and nothing beside them."""
        name = self._prefix + view
        if isinstance(self._online, BulkStore):
            self._online.fill(name, batches)
            return
        for keys, bodies, due in batches:
            full = [(name, key) for key in keys]
            self._online.write(dict(zip(full, bodies, strict=True)), {}, dict(zip(full, due, strict=True)))

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """States under the place's names."""
        return self._online.read([(self._prefix + view, key) for view, key in keys])

    def sweep(self, now_us: int) -> int:
        """Forget what is due, of all places."""
        return self._online.sweep(now_us)

    def lost(self) -> list[str]:
        """The place's views some of whose states were lost."""
        return [view.removeprefix(self._prefix) for view in self._online.lost() if view.startswith(self._prefix)]

    def cursors(self) -> dict[str, str]:
        """The place's cursors."""
        n = len(self._prefix)
        return {name[n:]: text for name, text in self._online.cursors().items() if name.startswith(self._prefix)}

    def clear(self, view: str) -> None:
        """Forget what the place has under a name."""
        self._online.clear(self._prefix + view)

"""How a process that only reads finds the state of a version: once, and then for as long as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.core.meaning import view_digest
from tidemill.features.embedded.memory import TableMemory
from tidemill.features.embedded.places import Place, Scoped, current, new_place, places
from tidemill.features.embedded.plans import Plans
from tidemill.features.embedded.tiles import ViewPlan
from tidemill.features.embedded.versions import unpublished
from tidemill.features.ports import OnlineStore


@dataclass(slots=True, eq=False)
class Sight:
    """A version as this process sees it. `name`: its place's; `stored`: what its states are stored under; `single`: its key if it is one column; `kinds`: the type of each key in the rows, empty where nobody knows; `memory`: the writer's rows, as of a cursor."""

    view: FeatureView
    place: Place
    plan: ViewPlan
    plans: Plans
    name: str
    stored: str
    single: str
    kinds: tuple[str, ...]
    memory: tuple[str, TableMemory] | None = None


class Sights:
    """Versions of views in a store, each looked up once. A view of `begun` that the store has no version of is one that no row has reached."""

    def __init__(self, online: OnlineStore, begun: Iterable[FeatureView] = ()) -> None:
        self._online = online
        self._begun = {view_digest(view) for view in begun}
        self._seen: dict[int, Sight] = {}

    def of(self, view: FeatureView) -> Sight:
        """The version that `view` is. Raises `InvalidError` unless it can be read."""
        found = self._seen.get(id(view))
        if found is None or found.view is not view:
            found = self._look(view)
        return found

    def _look(self, view: FeatureView) -> Sight:
        cursors, digest = self._online.cursors(), view_digest(view)
        there = [p for p in places(cursors) if p.view.name == view.name]
        place = next((p for p in there if p.digest == digest), new_place(view))
        if place.status != "published" and (there or digest not in self._begun):
            raise unpublished(place, current(cursors).get(view.name))
        plans = Plans(place.alone())
        stored, keys, written = f"{place.name}/{view.name}", view.keys, cursors.get(f"{place.name}/{view.table.name}", "{}")
        kinds = json.loads(written).get("kinds", {})
        sight = Sight(
            view,
            place,
            plans.by_name[view.name],
            plans,
            place.name,
            stored,
            keys[0] if len(keys) == 1 else "",
            tuple(kinds.get(k, "") for k in keys),
        )
        if place.status == "published":
            self._seen[id(view)] = sight
        return sight

    def clocks(self, sights: Sequence[Sight], said: Sequence[bytes | None]) -> list[bytes]:
        """The writers' clocks, which are what sentinels say. Raises `InvalidError` when a version may not be read any more."""
        found = [clock for clock in said if clock]
        if len(found) < len(said):
            sight = next(sight for sight, clock in zip(sights, said, strict=True) if not clock)
            self._seen.pop(id(sight.view), None)
            raise InvalidError(
                f"the online state of {sight.name} is gone; run `tidemill features materialize {sight.view.name}`, or deploy a "
                "model that was trained on the current version"
            )
        return found

    def memory(self, sight: Sight) -> TableMemory:
        """The rows that the writer remembers."""
        mine = Scoped(self._online, sight.place.name)
        table, cursors = sight.view.table.name, mine.cursors()
        if sight.memory is None or sight.memory[0] != cursors[table]:
            sight.memory = (cursors[table], sight.plans.load(table, mine, cursors)[0])
        return sight.memory[1]

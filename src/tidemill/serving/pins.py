"""A model version is served with the versions of feature views that it was trained on, whatever the definitions have become since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.core.definitions import FeatureView, OnDemand, Service
from tidemill.core.errors import InvalidError
from tidemill.core.meaning import view_digest
from tidemill.features.ports import VersionedReader
from tidemill.serving.plan import OnDemandFunction, Plan, compile_plan

PlanFor = Callable[[Mapping[str, Any]], Plan]
"""The plan for a model version, by its meta."""
_Feature = FeatureView | OnDemand | str


class Pins:
    """Plans by what model versions were trained on. Equal pins share a plan."""

    def __init__(self, plan: Plan, reader: VersionedReader, on_demand: OnDemandFunction) -> None:
        self._plan = plan
        self._reader = reader
        self._on_demand = on_demand
        self._defined = {view.name: (view_digest(view), view) for view in plan.service.views}
        self._made: dict[tuple[str, ...], Plan] = {}

    def plan_for(self, meta: Mapping[str, Any]) -> Plan:
        """The plan that reads the versions named in `meta["views"]`; without them, the defined versions, or those that are still served instead.

        Raises:
            InvalidError: a version is not online, so the model would be answered from other features than it learned from.
        """
        pins = meta.get("views")
        if self._plan.service.graph is not None:  # functions read what no model was trained on, so no view goes
            named = dict(pins) if isinstance(pins, Mapping) else {}
            views = [self._pinned(name, str(named[name])) if name in named else self._served(name) for name in {**self._defined, **named}]
        elif isinstance(pins, Mapping) and pins:
            views = [self._pinned(name, str(digest)) for name, digest in pins.items()]
        else:
            views = [self._served(name) for name in self._defined]
        if {id(v) for v in views} == {id(view) for _, view in self._defined.values()}:
            return self._plan
        wanted = tuple(meta.get("signature", {}).get("inputs", ()))
        key = (*sorted(view_digest(v) for v in views), *wanted)
        if key not in self._made:
            service = with_views(self._plan.service, views, wanted)
            self._made[key] = compile_plan(service, self._reader, self._on_demand)
        return self._made[key]

    def _pinned(self, name: str, digest: str) -> FeatureView:
        defined = self._defined.get(name)
        there = self._reader.version(digest)
        if defined is not None and defined[0] == digest:
            if there is None and self._reader.current(name) is not None:
                raise InvalidError(
                    f"the model was trained on the newest version of feature view {name!r}, which is not online yet; "
                    f"run `tidemill features materialize {name}`"
                )
            return defined[1]
        if there is None:
            raise InvalidError(
                f"the model was trained on a version of feature view {name!r} that is no longer online ({digest[:19]}…); retrain it, or "
                f"restore that definition and run `tidemill features materialize {name}`"
            )
        return there

    def _served(self, name: str) -> FeatureView:
        digest, view = self._defined[name]
        if self._reader.version(digest) is None and (current := self._reader.current(name)) is not None:
            return current
        return view


def with_views(service: Service, views: Sequence[FeatureView], wanted: Sequence[str] = ()) -> Service:
    """The service with these versions of its views; views that it has no longer come as well, those that are not given go. `wanted` is the order of columns.

    A graph reads more than one model does: its service keeps all its columns.
    """
    given = {view.name: view for view in views}
    if service.graph is not None:
        given, wanted = {**{view.name: view for view in service.views}, **given}, ()
    features: list[_Feature] = []
    for feature in service.features:
        if not isinstance(feature, FeatureView):
            features.append(feature)
        elif feature.name in given:
            features.append(given.pop(feature.name))
    features += given.values()
    if wanted:
        place = {column: i for i, column in enumerate(wanted)}
        features = [f for f in features if any(c in place for c in _columns(f))]
        features.sort(key=lambda f: min(place.get(c, len(place)) for c in _columns(f)))
    return replace(service, features=features)


def _columns(feature: _Feature) -> tuple[str, ...]:
    if isinstance(feature, FeatureView):
        return feature.columns
    return (feature if isinstance(feature, str) else feature.name,)

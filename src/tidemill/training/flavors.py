"""Which library made a model, and so how it is scored and kept."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from tidemill.core.errors import InvalidError
from tidemill.training.boosted import LightgbmFlavor
from tidemill.training.ports import Flavor


@cache
def flavor_of(name: str) -> Flavor:
    """The flavor that `Model.flavor` names: our own, or one that an adapter registers. Raises `InvalidError` for one that nobody knows."""
    if name == "lightgbm":
        return LightgbmFlavor()
    known = {entry.name: entry for entry in entry_points(group="tidemill.flavors")}
    if name not in known:
        raise InvalidError(f"models of flavor {name!r} are not known; there are {', '.join(['lightgbm', *sorted(known)])}")
    found: Flavor = known[name].load()()
    return found

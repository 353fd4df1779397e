"""From requests to the states of their keys: what a reader and a look-up ask the store for, in one round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from tidemill.core.errors import InvalidError
from tidemill.features.embedded.places import SENTINEL
from tidemill.features.embedded.plans import key_text, request_key
from tidemill.features.embedded.sights import Sight
from tidemill.features.ports import Grid, GridStore, OnlineStore

_ALIVE = (SENTINEL,)
_SHAPES = 32
"""Shapes that are kept: each is some microseconds' work, and keeps what its versions have read."""


Found = tuple[Sequence[Any], Sequence[bytes | None]]
"""What one version has, by request: the key, None where a part of it is null; and the key's state."""


@dataclass(slots=True)
class Shape:
    """Versions that are asked for together.

    `groups`: those with the same keys of the same types, by their places, and where their states are; `names`: of all features; `published`: the places of
    versions that have a sentinel.
    """

    sights: tuple[Sight, ...]
    sentinels: Grid
    groups: list[tuple[Sight, list[int], list[str]]]
    names: list[str]
    published: list[int]

    @classmethod
    def of(cls, sights: tuple[Sight, ...]) -> Shape:
        """As of these versions."""
        together: dict[tuple[tuple[str, ...], ...], list[int]] = {}
        for i, sight in enumerate(sights):
            together.setdefault((sight.plan.keys, sight.kinds), []).append(i)
        groups = [(sights[places[0]], places, [sights[i].stored for i in places]) for places in together.values()]
        names = [name for sight in sights for name in sight.plan.names]
        published = [i for i, sight in enumerate(sights) if sight.place.status == "published"]
        return cls(sights, ([sight.name for sight in sights], _ALIVE), groups, names, published)


class Asking:
    """Asks a store for what versions have for requests; a key is spelled once, however many views have it."""

    def __init__(self, online: OnlineStore) -> None:
        self._online, self._grids = online, online if isinstance(online, GridStore) else None
        self._shapes: dict[tuple[Sight, ...], Shape] = {}

    def shape(self, sights: tuple[Sight, ...]) -> Shape:
        """What is the same whenever these versions are asked for, worked out once."""
        shape = self._shapes.get(sights)
        if shape is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[sights] = Shape.of(sights)
        return shape

    def ask(self, shape: Shape, requests: Sequence[Mapping[str, Any]]) -> tuple[list[bytes | None], list[Found]]:
        """The sentinel of each version, and what it has. Raises `InvalidError` for a key that a request lacks, and what the store raises."""
        asked = [_keys(sight, requests) for sight, _, _ in shape.groups]
        grids = [shape.sentinels]
        for (_, _, stored), keys in zip(shape.groups, asked, strict=True):
            grids.append((stored, [f"[{key}]" if type(key) is int else key_text(key) for key in keys if key is not None]))
        sentinels, *columns = _flat(self._online, grids) if self._grids is None else self._grids.read_grids(grids)
        found: list[Found] = [_NOTHING] * len(shape.sights)
        for (_, places, _), keys, states in zip(shape.groups, asked, columns, strict=True):
            for i, bodies in zip(places, states, strict=True):
                found[i] = keys, bodies if len(bodies) == len(keys) else _spread(keys, bodies)
        return [said for (said,) in sentinels], found


_NOTHING: Found = ((), ())


def _spread(keys: Sequence[Any], bodies: Sequence[bytes | None]) -> list[bytes | None]:
    """The states of keys that are there, and None for those that are null."""
    rest = iter(bodies)
    return [None if key is None else next(rest) for key in keys]


def _keys(sight: Sight, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The key of each request, None where a part of it is null. Raises `InvalidError` when a part is not there, or of another type than in the rows."""
    name, plan = sight.single, sight.plan
    found = [request.get(name) for request in requests] if name else [None] * len(requests)
    if None in found:
        found = [request_key(plan, request) if key is None else key for key, request in zip(found, requests, strict=True)]
    for place, kind in enumerate(sight.kinds):
        fits = _FITS.get(kind)
        if fits is not None and not fits.issuperset(map(type, found if name else [None if key is None else key[place] for key in found])):
            _refuse_misfits(sight, place, tuple(fits), requests)
    return found


_FITS: dict[str, set[type]] = {"int64": {int, float, NoneType}, "string": {str, NoneType}}
"""Types of keys by the type of the rows' column. A key of another type would be found nowhere, and look like one that nobody knows."""
_SPELLED = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
}


def _refuse_misfits(sight: Sight, place: int, fits: tuple[type, ...], requests: Sequence[Mapping[str, Any]]) -> None:
    """Raise `InvalidError` for the first key of another type; NaN stands for null, and what is derived from a type for that."""
    key = sight.plan.keys[place]
    for row, value in enumerate([request.get(key) for request in requests]):
        if (isinstance(value, fits) and not isinstance(value, bool)) or (isinstance(value, float) and math.isnan(value)):
            continue
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "…"
        what = _SPELLED.get(type(value), type(value).__name__)
        raise InvalidError(
            f"the key {key!r} of feature view {sight.view.name!r} is {sight.kinds[place]}; request {row} has {what}: {shown}"
        )


def _flat(online: OnlineStore, grids: Sequence[Grid]) -> list[list[Sequence[bytes | None]]]:
    """What a `GridStore` would answer, from any store."""
    bodies = online.read([(view, key) for views, keys in grids for view in views for key in keys])
    found, start = list[list[Sequence[bytes | None]]](), 0
    for views, keys in grids:
        columns: list[Sequence[bytes | None]] = []
        for _ in views:
            columns.append(bodies[start : start + len(keys)])
            start += len(keys)
        found.append(columns)
    return found

"""What says something about a person: which columns of a service do, and how their values are kept without being readable."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from tidemill.core.definitions import FeatureView, Service, Table

HIDDEN = "•••"
"""What is shown instead of a value."""
_PREFIX = "pii:"
_COUNTS = frozenset({"count", "distinct"})
"""Kinds of aggregates that tell how many and not what."""


def private_features(view: FeatureView) -> frozenset[str]:
    """Full names of the features whose values are those of a personal column, or computed from them; counts are not."""
    personal = view.table.personal
    own = {a.name for a in view.aggregates if a.column in personal and a.kind not in _COUNTS}
    for a in view.aggregates:  # an expression reads features before it
        if a.expression and any(name in a.expression for name in own):
            own.add(a.name)
    return frozenset(f"{view.name}__{name}" for name in own)


def private_columns(service: Service) -> frozenset[str]:
    """Request columns and model inputs of a service that say something about a person; an on-demand feature that reads one is one."""
    found = set(service.spine.personal)
    for view in service.views:
        found |= private_features(view) | (view.table.personal & set(view.keys))
    for feature in service.on_demand:
        if found & set(feature.inputs):
            found.add(feature.name)
    return frozenset(found & {*service.columns, *service.request_columns})


class Masker:
    """Replaces values by a keyed hash: equal values stay equal, and without the key nobody can find them again by trying."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, value: Any) -> str | None:
        """`pii:` and 24 hexadecimal digits; null stays null, and what is masked already stays as it is. Numbers are told by their value, not their type."""
        if value is None or is_masked(value):
            return value  # type: ignore[no-any-return]
        plain = float(value) if isinstance(value, int | float) else str(value)
        if plain != plain:
            return None
        return _PREFIX + hmac.digest(self._key, repr(plain).encode(), "sha256").hex()[:24]


def is_masked(value: Any) -> bool:
    """Whether a value is what a `Masker` gives."""
    return isinstance(value, str) and value.startswith(_PREFIX) and len(value) == len(_PREFIX) + 24


def hide(values: Mapping[str, Any], tables: Iterable[Table]) -> dict[str, Any]:
    """A row as it may be shown: values of columns that are personal in one of the tables are hidden; null is shown."""
    personal = frozenset().union(*(table.personal for table in tables))
    return {name: HIDDEN if name in personal and value is not None else value for name, value in values.items()}

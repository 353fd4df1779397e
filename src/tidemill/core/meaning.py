"""What a feature view means, as a digest: equal digests, equal values. And back, so that an old version can be read without its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from tidemill.core import digests
from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import Entity, FeatureView, Table

_DEFAULTS = {f.name: f.default for f in fields(Aggregate)}


def view_digest(view: FeatureView) -> str:
    """Digest of everything that changes a view's values: table, clocks, keys and aggregates; not descriptions, owners or tags."""
    return digests.of_json(view_body(view))


def table_digest(views: Sequence[FeatureView]) -> str:
    """Digest of all views over one table; online state made under another one must not be read."""
    return digests.of_json(sorted((view_body(v) for v in views), key=lambda body: str(body["name"])))


def view_body(view: FeatureView) -> dict[str, Any]:
    """What a view means as a JSON value. A new kind of setting, left at its default, changes no digest."""
    table = view.table
    return {
        "name": view.name,
        "keys": list(view.keys),
        "table": [table.name, table.event_time, table.known_time, *table.keys],
        "aggregates": [{k: v for k, v in asdict(a).items() if v != _DEFAULTS[k]} for a in view.aggregates],
    }


def view_from(body: Mapping[str, Any]) -> FeatureView:
    """The view that a body speaks of: it has the body's digest; source, descriptions and owners are gone."""
    name, event_time, known_time, *keys = body["table"]
    table = Table(name, "", event_time, known_time, key=tuple(keys))
    entities = tuple(Entity(f"key{i}", key) for i, key in enumerate(body["keys"]))
    return FeatureView(body["name"], entities, table, [Aggregate(**a) for a in body["aggregates"]])

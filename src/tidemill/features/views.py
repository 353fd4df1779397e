"""What a feature view means, as a digest: equal digests, equal values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.core import digests
from tidemill.core.definitions import FeatureView


def view_digest(view: FeatureView) -> str:
    """Digest of everything that changes a view's values: table, clocks, keys and aggregates; not descriptions, owners or tags."""
    return digests.of_json(_meaning(view))


def table_digest(views: Sequence[FeatureView]) -> str:
    """Digest of all views over one table; online state made under another one must not be read."""
    return digests.of_json(sorted((_meaning(v) for v in views), key=lambda meaning: str(meaning["name"])))


def _meaning(view: FeatureView) -> dict[str, Any]:
    table = view.table
    return {
        "name": view.name,
        "keys": list(view.keys),
        "table": [table.name, table.event_time, table.known_time, *table.keys],
        "aggregates": [[a.name, a.kind, a.column, a.over_us, a.hop_us, a.ttl_us] for a in view.aggregates],
    }

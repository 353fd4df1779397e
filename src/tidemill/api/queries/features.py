"""Feature views from the definitions, with freshness and parity from the ledger."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries import data, state
from tidemill.api.queries.rows import Record
from tidemill.core.aggregates import Aggregate, spelled
from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import not_found
from tidemill.core.instants import format_duration


def views(db: sa.Connection, definitions: Definitions) -> list[Record]:
    """Every view, in the order of the definitions."""
    arrived = {t["table_name"]: t["at_us"] for t in data.tables(db, definitions.tables)}
    fresh = {row["name"]: row for row in state.below(db, "freshness:")}
    return [_view(v, definitions, arrived.get(v.table.name), fresh.get(v.name)) for v in definitions.views.values()]


def view(db: sa.Connection, definitions: Definitions, name: str) -> Record:
    """One view. Raises `NotFoundError`."""
    if name not in definitions.views:
        raise not_found("feature view", name, definitions.views)
    return next(item for item in views(db, definitions) if item["name"] == name)


def _view(v: FeatureView, definitions: Definitions, arrived_us: int | None, fresh: Record | None) -> Record:
    return {
        "name": v.name,
        "description": v.description,
        "owner": v.owner,
        "tags": list(v.tags),
        "entities": [e.name for e in v.entities],
        "keys": list(v.keys),
        "table": v.table.name,
        "features": [_feature(v, a) for a in v.aggregates],
        "services": [s.name for s in definitions.services.values() if v in s.views],
        "arrived_us": arrived_us,
        "fresh": fresh,
    }


def _feature(v: FeatureView, a: Aggregate) -> Record:
    return {
        "name": v.full_name(a),
        "kind": a.kind,
        "column": a.column,
        "over": format_duration(a.over_us) if a.over_us else None,
        "hop": format_duration(a.hop_us) if a.hop_us else None,
        "ttl": format_duration(a.ttl_us) if a.ttl_us else None,
        "spelled": spelled(a),
    }


def parity(db: sa.Connection) -> list[Record]:
    """The last parity report of each service: {"name", "at_us", "value": the report}."""
    return state.below(db, "parity:")

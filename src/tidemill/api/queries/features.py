"""Feature views from the definitions, with freshness and parity from the ledger."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries import data, state
from tidemill.api.queries.rows import Record
from tidemill.core.aggregates import Aggregate, spelled
from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import not_found
from tidemill.core.instants import SECOND_US, format_duration, parse_duration
from tidemill.core.meaning import view_digest
from tidemill.features import versions


def views(db: sa.Connection, definitions: Definitions, now_us: int | None = None) -> list[Record]:
    """Every view, in the order of the definitions. With `now_us`, `lag_us` is how far the newest known row online lies behind it (`lag` in words)."""
    arrived = {t["table_name"]: t["at_us"] for t in data.tables(db, definitions.tables)}
    fresh = {row["name"]: row for row in state.below(db, "freshness:")}
    current = {v.digest: v for v in versions(db)}
    found = []
    for v in definitions.views.values():
        known = (fresh[v.name]["value"] or {}).get("known_us") if v.name in fresh else None
        lag_us = None if known is None or now_us is None else max(0, now_us - int(known))
        version = current.get(view_digest(v))
        more = {
            "version": version.name if version else None,
            "known_us": known,
            "lag_us": lag_us,
            "lag": None if lag_us is None else lag_in_words(lag_us),
            "promised": v.freshness or None,
            "late": v.freshness_us is not None and (lag_us is None or lag_us > v.freshness_us),
        }
        found.append(_view(v, definitions, arrived.get(v.table.name), fresh.get(v.name)) | more)
    return found


def lag_in_words(us: int) -> str:
    """A lag with one unit, rounded down: 95 minutes are `1h`."""
    for unit in ("1d", "1h", "1m"):
        if us >= parse_duration(unit):
            return f"{us // parse_duration(unit)}{unit[1]}"
    return f"{us // SECOND_US}s"


def view(db: sa.Connection, definitions: Definitions, name: str, now_us: int | None = None) -> Record:
    """One view. Raises `NotFoundError`."""
    if name not in definitions.views:
        raise not_found("feature view", name, definitions.views)
    return next(item for item in views(db, definitions, now_us) if item["name"] == name)


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

"""Versions of feature views: what is online of each, and who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from tidemill import features
from tidemill.api.queries import state
from tidemill.api.queries.rows import Record
from tidemill.core.definitions import Definitions
from tidemill.core.instants import DAY_US
from tidemill.serving.ports import PredictionLog

RECENT_US = 7 * DAY_US
"""How far back a read is a recent one."""


def listing(db: sa.Connection, definitions: Definitions, view: str | None = None) -> list[Record]:
    """Every version by view and number, as of the loop's last turn.

    `state`: current, published (who is pinned to it reads it), complete, building, absent or dropped.
    """
    online: dict[str, Any] = state.find(db, features.ONLINE) or {}
    out = []
    for version in features.versions(db, view):
        found = online.get(version.digest, {})
        out.append(
            {
                "view": version.view,
                "number": version.number,
                "version": version.name,
                "digest": version.digest,
                "state": found.get("state") or ("dropped" if version.dropped_us is not None else "absent"),
                "known_us": found.get("known_us"),
                "at_us": version.at_us,
                "published_us": version.published_us,
                "deprecated_us": version.deprecated_us,
                "deprecated": None if version.deprecated_us is None else version.reason or "yes",
                "readers": readers(db, definitions, version.digest),
            }
        )
    return out


def readers(db: sa.Connection, definitions: Definitions, digest: str) -> list[Record]:
    """Services and model versions that read a version."""
    return [
        {"version": r.version, "service": r.service, "model": r.model, "role": r.role}
        for r in features.readers(db, definitions)
        if r.digest == digest
    ]


def last_read_us(log: PredictionLog, reader: Mapping[str, Any], now_us: int) -> int | None:
    """When a model version last answered, within the last week; None when it did not."""
    number = int(str(reader["model"]).rpartition("/")[2])
    scores = log.scores(str(reader["service"]), from_us=now_us - RECENT_US)
    at = scores["at_us"][scores["version"] == number]
    return int(at.max()) if len(at) else None

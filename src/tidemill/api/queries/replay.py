"""Summaries of replays: what each retraining policy would have done on history."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tidemill.api.queries import state
from tidemill.api.queries.rows import Record
from tidemill.core.errors import NotFoundError


def listing(db: sa.Connection) -> list[Record]:
    """All replays, newest first, without their weeks."""
    return [{"id": row["name"], "at_us": row["at_us"], **_head(row["value"])} for row in state.below(db, "replay:")]


def _head(summary: Any) -> Record:
    policies = [{k: v for k, v in p.items() if k not in ("weeks", "events")} for p in summary.get("policies", [])]
    return {**{k: summary.get(k) for k in ("service", "from_us", "until_us", "primary")}, "policies": policies}


def one_replay(db: sa.Connection, replay_id: str) -> Record:
    """A whole summary. Raises `NotFoundError`."""
    found: Record | None = state.find(db, f"replay:{replay_id}")
    if found is None:
        raise NotFoundError(f"no replay {replay_id!r}; make one with `tidemill replay --from 2013-03-01 --to 2013-12-31`")
    return found

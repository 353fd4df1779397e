"""Services: who answers now, who answered before."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries.rows import Page, Record, fetch, page
from tidemill.ledger import schema

_D = schema.deployment.c
SERVING = ("live", "canary", "shadow", "warm")


def current(db: sa.Connection, service: str) -> list[Record]:
    """Deployments that serve now: live first, then canary, shadow, and what is kept warm."""
    rows = fetch(db, sa.select(schema.deployment).where(_D.service == service, _D.role.in_(SERVING), _D.ended_us.is_(None)))
    return sorted(rows, key=lambda row: (SERVING.index(row["role"]), -row["version"]))


def history(db: sa.Connection, service: str, *, offset: int = 0, limit: int = 50) -> Page:
    """All deployments of a service, newest first."""
    query = sa.select(schema.deployment).where(_D.service == service).order_by(_D.started_us.desc(), _D.id)
    return page(db, query, offset=offset, limit=limit)


def names(db: sa.Connection, defined: list[str]) -> list[str]:
    """Services that are defined, then those that only the ledger remembers."""
    return list(dict.fromkeys([*defined, *(r["service"] for r in fetch(db, sa.select(_D.service).distinct().limit(100)))]))

"""Every decision with its evidence and its cause."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries.rows import Page, Record, fetch, one, page
from tidemill.core.errors import NotFoundError
from tidemill.ledger import schema

_D = schema.decision.c


def listing(
    db: sa.Connection, *, service: str = "", kind: str = "", outcome: str = "", subject: str = "", offset: int = 0, limit: int = 50
) -> Page:
    """Decisions, newest first."""
    query = sa.select(schema.decision).order_by(_D.at_us.desc(), _D.id)
    for column, value in ((_D.service, service), (_D.kind, kind), (_D.outcome, outcome), (_D.subject, subject)):
        if value:
            query = query.where(column == value)
    return page(db, query, offset=offset, limit=limit)


def one_decision(db: sa.Connection, decision_id: str) -> Record:
    """A decision and the ones that take it back. Raises `NotFoundError`."""
    found = one(db, sa.select(schema.decision).where(_D.id == decision_id))
    if found is None:
        raise NotFoundError(f"no decision {decision_id!r}; `tidemill decisions` lists them")
    found["reversed_by"] = fetch(db, sa.select(schema.decision).where(_D.reverses == decision_id).order_by(_D.at_us).limit(20))
    return found


def kinds(db: sa.Connection) -> dict[str, list[str]]:
    """The kinds and outcomes that occur: the choices of a filter."""
    rows = fetch(db, sa.select(_D.kind, _D.outcome).distinct().limit(200))
    return {"kind": sorted({r["kind"] for r in rows}), "outcome": sorted({r["outcome"] for r in rows})}


def about(db: sa.Connection, service: str, version: int, *, limit: int = 50) -> list[Record]:
    """Decisions whose subject is this version of the service's model, oldest first."""
    names = [f"{service}/{version}", f"models:/{service}/{version}", f"model:{service}/{version}", f"{service}@{version}"]
    return fetch(db, sa.select(schema.decision).where(_D.service == service, _D.subject.in_(names)).order_by(_D.at_us).limit(limit))

"""The audit log, forwards for a live stream and backwards for a page."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries.rows import Page, Record, fetch, page, scalar
from tidemill.ledger import schema

_E = schema.event.c


def newest(db: sa.Connection, *, subject: str = "", kind: str = "", but: str = "", offset: int = 0, limit: int = 50) -> Page:
    """Events, newest first; those whose kind starts with `but` are left out."""
    query = sa.select(schema.event).order_by(_E.seq.desc())
    if subject:
        query = query.where(_E.subject == subject)
    if but:
        query = query.where(sa.not_(_E.kind.startswith(but, autoescape=True)))
    if kind:
        query = query.where(_E.kind == kind)
    return page(db, query, offset=offset, limit=limit)


def behind(db: sa.Connection, seq: int, *, limit: int = 200) -> list[Record]:
    """Events with a greater number than `seq`, oldest first."""
    return fetch(db, sa.select(schema.event).where(_E.seq > seq).order_by(_E.seq).limit(limit))


def last_seq(db: sa.Connection) -> int:
    """The number of the newest event, 0 before there is one."""
    return int(scalar(db, sa.select(sa.func.max(_E.seq))) or 0)

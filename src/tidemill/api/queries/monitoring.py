"""Observations of a service over time."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries.rows import Record, fetch, one
from tidemill.ledger import schema

_O = schema.observation.c
MAX_POINTS = 2000


def objectives(db: sa.Connection, service: str) -> list[Record]:
    """Each objective of the service with its last window and how many windows it has."""
    columns = (_O.objective, sa.func.count().label("n"), sa.func.max(_O.until_us).label("until_us"))
    return fetch(db, sa.select(*columns).where(_O.service == service).group_by(_O.objective).order_by(_O.objective).limit(500))


def series(
    db: sa.Connection, service: str, objective: str, *, version: int | None = None, from_us: int = 0, limit: int = MAX_POINTS
) -> list[Record]:
    """The last windows of one objective, oldest first."""
    query = sa.select(schema.observation).where(_O.service == service, _O.objective == objective, _O.until_us > from_us)
    if version is not None:
        query = query.where(_O.version == version)
    return fetch(db, query.order_by(_O.until_us.desc(), _O.version.desc()).limit(min(limit, MAX_POINTS)))[::-1]


def last(db: sa.Connection, service: str, objective: str, *, version: int | None = None) -> Record | None:
    """The newest window of an objective that has a value."""
    query = sa.select(schema.observation).where(_O.service == service, _O.objective == objective, _O.value.is_not(None))
    if version is not None:
        query = query.where(_O.version == version)
    return one(db, query.order_by(_O.until_us.desc()))


def worst(db: sa.Connection, service: str, prefix: str, *, limit: int = 12) -> list[Record]:
    """Objectives that start with `prefix` at the newest window they share, greatest value first: the inputs that drift most."""
    matches = sa.and_(_O.service == service, _O.objective.startswith(prefix, autoescape=True), _O.value.is_not(None))
    newest = sa.select(sa.func.max(_O.until_us)).where(matches).scalar_subquery()
    return fetch(db, sa.select(schema.observation).where(matches, _O.until_us == newest).order_by(_O.value.desc()).limit(limit))

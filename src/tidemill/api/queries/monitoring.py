"""Observations of a service over time."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries.rows import Record, fetch, one
from tidemill.ledger import schema

_O = schema.observation.c
MAX_POINTS = 2000
WHOLE = 0
"""The version under which a service is observed as a whole."""


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


def served(db: sa.Connection, service: str, objective: str, *, length_us: int | None = None, limit: int = MAX_POINTS) -> list[Record]:
    """One objective of the service as a whole, whoever answered, oldest first; one row for each window of `length_us` (None: the longest kept).

    What monitoring states under version 0; for objectives that only versions have, that of the version with most rows.
    """
    whole = series(db, service, objective, version=WHOLE, limit=2 * limit)
    rows = whole or series(db, service, objective, limit=MAX_POINTS)
    lengths = {row["until_us"] - row["from_us"] for row in rows}
    wanted = length_us if length_us in lengths else max(lengths, default=0)
    most: dict[int, Record] = {}
    for row in rows:
        if row["until_us"] - row["from_us"] == wanted and row["n"] >= most.get(row["until_us"], row)["n"]:
            most[row["until_us"]] = row
    return list(most.values())[-limit:]


def lengths(db: sa.Connection, service: str, objective: str) -> list[int]:
    """The window lengths that are kept of an objective, in microseconds, shortest first."""
    length = (_O.until_us - _O.from_us).label("length_us")
    query = sa.select(length).where(_O.service == service, _O.objective == objective).distinct().order_by(length).limit(8)
    return [row["length_us"] for row in fetch(db, query)]


def last(db: sa.Connection, service: str, objective: str, *, version: int | None = None) -> Record | None:
    """The newest window of an objective that has a value."""
    query = sa.select(schema.observation).where(_O.service == service, _O.objective == objective, _O.value.is_not(None))
    if version is not None:
        query = query.where(_O.version == version)
    return one(db, query.order_by(_O.until_us.desc(), _O.n.desc()))


def worst(db: sa.Connection, service: str, prefix: str, *, limit: int = 12) -> list[Record]:
    """Objectives that start with `prefix` at the newest window, of the version with most rows, greatest value first: what drifts most."""
    matches = sa.and_(_O.service == service, _O.objective.startswith(prefix, autoescape=True), _O.value.is_not(None))
    newest = one(db, sa.select(_O.version, _O.until_us).where(matches).order_by(_O.until_us.desc(), _O.n.desc()))
    if newest is None:
        return []
    query = sa.select(schema.observation).where(matches, _O.until_us == newest["until_us"], _O.version == newest["version"])
    return fetch(db, query.order_by(_O.value.desc()).limit(limit))

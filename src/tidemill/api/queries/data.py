"""Tables and the batches that made them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import sqlalchemy as sa

from tidemill.api.queries.rows import Page, Record, fetch, one, page
from tidemill.core.errors import NotFoundError
from tidemill.ledger import schema
from tidemill.validation.ports import Profile, Profiler

_B = schema.batch.c
_P = schema.profile.c


def tables(db: sa.Connection, known: Mapping[str, Any]) -> list[Record]:
    """Each table with its counts, its last batch and the rows it has received."""
    totals = {
        row["table_name"]: row
        for row in fetch(
            db,
            sa.select(
                _B.table_name,
                sa.func.count().label("batches"),
                sa.func.sum(sa.case((_B.status == "published", _B.rows), else_=0)).label("rows"),
                sa.func.sum(sa.case((_B.status == "rejected", 1), else_=0)).label("rejected"),
                sa.func.max(_B.at_us).label("at_us"),
            ).group_by(_B.table_name),
        )
    }
    out = []
    for name in dict.fromkeys([*known, *totals]):
        counts = totals.get(name, {"batches": 0, "rows": 0, "rejected": 0, "at_us": None})
        last = one(db, _of(name).where(_B.status == "published")) if counts["batches"] else None
        out.append({**counts, "table_name": name, "definition": known.get(name), "snapshot_id": last and last["snapshot_id"]})
    return out


def _of(table: str) -> sa.Select[Any]:
    return sa.select(schema.batch).where(_B.table_name == table).order_by(_B.at_us.desc())


def batches(db: sa.Connection, *, table: str = "", status: str = "", offset: int = 0, limit: int = 50) -> Page:
    """Batches, newest first."""
    query = _of(table) if table else sa.select(schema.batch).order_by(_B.at_us.desc())
    if status:
        query = query.where(_B.status == status)
    return page(db, query, offset=offset, limit=limit)


def batch(db: sa.Connection, batch_id: str) -> Record:
    """One batch with its anomalies. Raises `NotFoundError`."""
    found = one(db, sa.select(schema.batch).where(_B.id == batch_id))
    if found is None:
        raise NotFoundError(f"no batch {batch_id!r}; the table's page lists its batches")
    return found


def volumes(db: sa.Connection, table: str, *, limit: int = 120) -> list[Record]:
    """Rows and status of the last batches of a table, oldest first: what a sparkline shows."""
    query = sa.select(_B.id, _B.at_us, _B.rows, _B.status).where(_B.table_name == table).order_by(_B.at_us.desc()).limit(limit)
    return fetch(db, query)[::-1]


def profile(db: sa.Connection, profiler: Profiler, subject: str, *, newest: int = 1) -> tuple[Record, Profile] | None:
    """The merge of the `newest` profiles of a subject (`table:NAME`, `baseline:SERVICE/VERSION` …) and their window; None without one."""
    rows = fetch(db, sa.select(schema.profile).where(_P.subject == subject).order_by(_P.from_us.desc()).limit(newest))
    if not rows:
        return None
    window = {
        "from_us": min(r["from_us"] for r in rows),
        "until_us": max(r["until_us"] for r in rows),
        "rows": sum(r["rows"] for r in rows),
    }
    return window, reduce(lambda a, b: a.merge(b), (profiler.load(row["body"]) for row in rows))

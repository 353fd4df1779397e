"""Latest-value facts: parity reports, freshness, replay summaries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tidemill.api.queries.rows import Record
from tidemill.ledger import schema
from tidemill.ledger.store import fact, from_json

_S = schema.state.c


def find(db: sa.Connection, name: str) -> Any:
    """The value stored under `name`, None when there is none."""
    return fact(db, name)


def below(db: sa.Connection, prefix: str, *, limit: int = 200) -> list[Record]:
    """Rows {"name", "value", "at_us"} whose name starts with `prefix`, newest first; `name` comes without the prefix."""
    query = sa.select(schema.state).where(_S.name >= prefix, _S.name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
    rows = db.execute(query.order_by(_S.at_us.desc(), _S.name).limit(limit)).mappings()
    return [{"name": str(row["name"])[len(prefix) :], "value": from_json(row["value"]), "at_us": row["at_us"]} for row in rows]

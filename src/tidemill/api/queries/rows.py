"""Ledger rows as plain dicts, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tidemill.core.errors import InvalidError
from tidemill.ledger.store import from_json

JSON_COLUMNS = frozenset(
    (
        "body",
        "evidence",
        "cause",
        "params",
        "graph",
        "code",
        "environment",
        "output",
        "key_parts",
        "inputs",
        "meta",
        "metrics",
        "anomalies",
        "value_json",
    )
)
MAX_PAGE = 200
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a listing. `more`: there are rows behind them; the next page starts at `offset + limit`."""

    items: list[Record]
    offset: int
    limit: int
    more: bool

    @property
    def previous(self) -> int | None:
        """Offset of the page before, None on the first."""
        return max(0, self.offset - self.limit) if self.offset else None

    @property
    def next(self) -> int | None:
        """Offset of the page behind, None on the last."""
        return self.offset + self.limit if self.more else None

    def as_json(self) -> Record:
        """The shape every listing of the API has."""
        return {"items": self.items, "offset": self.offset, "limit": self.limit, "next": self.next}


def record(row: Mapping[Any, Any], *, but: frozenset[str] = frozenset()) -> Record:
    """A row with its JSON columns read; columns in `but` stay as they are."""
    return {str(k): from_json(v) if k in JSON_COLUMNS and k not in but and isinstance(v, str) else v for k, v in row.items()}


def fetch(db: sa.Connection, query: sa.Select[Any]) -> list[Record]:
    """All rows of a query that is bounded by itself."""
    return [record(row) for row in db.execute(query).mappings()]


def one(db: sa.Connection, query: sa.Select[Any]) -> Record | None:
    """The first row, or None."""
    row = db.execute(query.limit(1)).mappings().first()
    return None if row is None else record(row)


def page(db: sa.Connection, query: sa.Select[Any], *, offset: int = 0, limit: int = 50) -> Page:
    """One page of an ordered query. Raises `InvalidError` for a limit outside 1 to 200 or an offset below 0."""
    if not 1 <= limit <= MAX_PAGE or offset < 0:
        raise InvalidError(f"limit must be 1 to {MAX_PAGE} and offset at least 0, not {limit} and {offset}")
    rows = fetch(db, query.limit(limit + 1).offset(offset))
    return Page(rows[:limit], offset, limit, len(rows) > limit)


def scalar(db: sa.Connection, query: sa.Select[Any]) -> Any:
    """The first value of the first row, or None."""
    return db.execute(query).scalar()

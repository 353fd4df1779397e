"""The rows of a batch that failed its audit, as they came: beside the table, never in it."""

from __future__ import annotations

from typing import Any

from tidemill.api.needs import Needs
from tidemill.api.queries.rows import Record
from tidemill.core.errors import NotFoundError
from tidemill.core.privacy import hide
from tidemill.ingestion import rejected


def rejected_rows(platform: Needs, batch: Record, *, limit: int = 50) -> tuple[list[str], list[Record]]:
    """Column names and the first rows that `batch` brought, personal values hidden. Raises `NotFoundError` where they are gone or were published."""
    if batch["status"] != "rejected":
        raise NotFoundError(f"batch {batch['id']} was {batch['status']}; its rows are in the table {batch['table_name']!r}")
    rows = rejected(batch["table_name"], batch["id"], tables=platform.tables, ledger=platform.ledger).slice(0, limit)
    table = platform.definitions.tables.get(batch["table_name"])
    hidden = [hide(row, [table]) if table is not None else row for row in rows.to_pylist()]
    return rows.column_names, [{k: _plain(v) for k, v in row.items()} for row in hidden]


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value

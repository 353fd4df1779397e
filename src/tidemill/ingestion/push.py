"""Taking in rows one by one: checked, then durable in the table's topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant
from tidemill.ingestion.ports import Topic

MAX_ROWS = 10_000
"""Rows of one push."""


def push(table: Table, rows: Sequence[Mapping[str, Any]], topic: Topic) -> int:
    """Append rows to a table's topic, all or none; they are durable when this returns.

    Args:
        table: names the clocks and the key that each row needs.
        rows: 1 to `MAX_ROWS`; both clocks are ISO 8601 texts or microseconds.
        topic: where the table's events come in.

    Returns:
        The offset behind the last row.

    Raises:
        InvalidError: a row lacks a clock or a part of the key; nothing was taken.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise InvalidError(f"a push takes 1 to {MAX_ROWS:,} rows, not {len(rows):,}; send more in several requests")
    return topic.stream.append(topic.name, [_checked(table, row, number) for number, row in enumerate(rows)])


def _checked(table: Table, row: Mapping[str, Any], number: int) -> bytes:
    wanted: Sequence[str] = (table.event_time, table.known_time, *table.keys)
    if missing := [column for column in dict.fromkeys(wanted) if column and row.get(column) is None]:
        raise InvalidError(f"row {number} lacks {', '.join(missing)}; each row of {table.name!r} needs {', '.join(dict.fromkeys(wanted))}")
    for column in (table.event_time, table.known_time):
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidError(f"row {number}: {column} must be an ISO 8601 text or microseconds, not {value!r}")
        if isinstance(value, str):
            parse_instant(value)
    return msgspec.json.encode(row)

"""A table of a SQLite database as a source: the rows that became known in one period are one batch.

`sqlite:///shop.db?table=orders&every=1h` reads `orders` by the table's known time, in periods of an hour (default: a day) that start
at whole multiples since the epoch. A period is available when it is over. Where a batch ends does so not depend on when it is read,
so reading again gives the same batches. A row that is changed in place comes again when its known time is changed with it; one that
is committed with a known time in a period that was read already is not seen, for it claims to have been known before it was there.
"""

import json
import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.core import digests, ids
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.instants import format_instant, parse_instant
from tidemill.ingestion.conform import storable
from tidemill.ingestion.ports import Batch, UnreadableError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SqliteSource:
    """A `Source` over one table of a SQLite file. The known-time column holds ISO 8601 text, in UTC where it has no zone."""

    def __init__(self, path: Path, name: str, table: Table, *, every_us: int) -> None:
        for identifier in (name, table.known_time):
            if not _NAME.fullmatch(identifier):
                raise InvalidError(f"{identifier!r} is no plain SQL name; letters, digits and '_' only")
        self._path, self._name, self._table, self._every_us = path, name, table, every_us

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        start_us = 0 if after is None else parse_instant(after)
        end_us = until_us // self._every_us * self._every_us  # the last period that is over
        known, name = self._table.known_time, self._name
        with closing(self._connect()) as db:
            try:
                lost = db.execute(f'SELECT count(*) FROM "{name}" WHERE tidemill_us("{known}") IS NULL').fetchone()[0]
                if lost:
                    logger.warning("sqlite_source.rows_without_known_time", extra={"table": name, "rows": lost, "column": known})
                query = f'SELECT tidemill_us("{known}") AS us, * FROM "{name}" WHERE us >= ? AND us < ? ORDER BY us, rowid'
                found = db.execute(query, (start_us, end_us))
                columns = [column[0] for column in found.description[1:]]
                for period, rows in groupby(found, key=lambda row: row[0] // self._every_us):
                    yield self._batch(columns, [row[1:] for row in rows], (period + 1) * self._every_us)
            except sqlite3.Error as exc:
                raise UnavailableError(f"{self._path} cannot be read for table {self._table.name!r}: {exc}") from exc

    def _connect(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise UnavailableError(f"there is no database {self._path} for table {self._table.name!r}; check its source URL")
        db = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
        db.create_function("tidemill_us", 1, _us, deterministic=True)
        return db

    def _batch(self, columns: list[str], rows: list[tuple[Any, ...]], end_us: int) -> Batch:
        plain = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in rows]
        digest = digests.of_bytes(json.dumps([columns, plain]).encode())
        batch_id = ids.derive("batch", self._table.name, self._name, end_us, digest)
        cursor, origin = format_instant(end_us), f"{self._path.name}:{self._name} until {format_instant(end_us)}"
        try:
            arrays = [pa.array(values) for values in zip(*rows, strict=True)]
            return Batch(batch_id, storable(pa.table(arrays, names=columns), self._table), cursor, end_us, origin, digest)
        except (pa.ArrowException, InvalidError) as exc:
            message = f"{origin}: {exc}"
            raise UnreadableError(message, id=batch_id, cursor=cursor, available_us=end_us, origin=origin) from exc


def _us(text: object) -> int | None:
    """Microseconds of an ISO 8601 text; None for what is none."""
    try:
        return parse_instant(text) if isinstance(text, str) else None
    except InvalidError:
        return None

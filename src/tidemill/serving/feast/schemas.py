"""Column types of tables, remembered."""

from __future__ import annotations

import pyarrow as pa

from tidemill.core.clock import Clock
from tidemill.core.definitions import Table
from tidemill.core.errors import NotFoundError
from tidemill.core.instants import SECOND_US
from tidemill.versioning.ports import TableStore

_AGAIN_US = 5 * SECOND_US


class Schemas:
    """Answers a table's columns, None while there is no such table; looks again after five seconds, as tables come and gain columns."""

    def __init__(self, tables: TableStore, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock
        self._known: dict[str, tuple[int, pa.Schema | None]] = {}

    def __call__(self, table: Table) -> pa.Schema | None:
        """The columns that the table has."""
        now = self._clock.now_us()
        known = self._known.get(table.name)
        if known is None or now - known[0] > _AGAIN_US:
            known = self._known[table.name] = (now, self._find(table.name))
        return known[1]

    def _find(self, name: str) -> pa.Schema | None:
        try:
            return self._tables.scan(name).schema
        except NotFoundError:
            return None

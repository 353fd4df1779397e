"""Which rows of a table count for a while only, or not at all: those that a correction replaces, and those that are there twice.

Nearly every identity has one row, so hashes of identities are looked at first, eight bytes a row, and only rows that share one are
brought into order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.core.definitions import Table
from tidemill.features.embedded.source import FILES, FOREVER, ORDER, Int64
from tidemill.features.fields import quote
from tidemill.versioning.ports import Scan

NEVER = np.iinfo(np.int64).min
"""The end of a row that does not count at all, because an equal one is there."""


@dataclass(frozen=True, slots=True)
class Revised:
    """The rows with an end, by their place in the order of ingestion (ascending); all others count for ever."""

    order: Int64
    end: Int64

    def ends(self, order: Int64) -> Int64:
        """The end of each row."""
        ends = np.full(len(order), FOREVER, dtype=np.int64)
        if len(self.order):
            place = np.minimum(np.searchsorted(self.order, order), len(self.order) - 1)
            found = self.order[place] == order
            ends[found] = self.end[place[found]]
        return ends


def revisions(db: duckdb.DuckDBPyConnection, scan: Scan, table: Table, until_us: int) -> Revised:
    """Find them among the rows known at `until_us`."""
    finder = _Finder(db, scan, table, until_us)
    if not table.keys:
        return finder.repeated("true")
    whole = " AND ".join(f"{quote(k)} IS NOT NULL" for k in table.keys)
    replaced = finder.replaced(whole)
    if not finder.any(f"NOT ({whole})"):
        return replaced
    repeated = finder.repeated(f"NOT ({whole})")
    return Revised(*_in_order(np.concatenate([replaced.order, repeated.order]), np.concatenate([replaced.end, repeated.end])))


@dataclass(slots=True)
class _Finder:
    """`which` is a condition on rows."""

    db: duckdb.DuckDBPyConnection
    scan: Scan
    table: Table
    until_us: int

    def any(self, which: str) -> bool:
        """Whether there is such a row."""
        return self.db.sql(f"SELECT 1 FROM {FILES} WHERE {which} LIMIT 1", params=[list(self.scan.paths)]).fetchall() != []

    def repeated(self, which: str) -> Revised:
        """Of rows that are equal in every column, all but the first."""
        found = self._sharing(self.scan.schema.names, which)
        return Revised(*_in_order(*_repeated(found, ("second", "first")))) if found else _NOTHING

    def replaced(self, which: str) -> Revised:
        """Rows with a later revision, which ends them, and rows that are there twice."""
        found = self._sharing(self.table.keys, which)
        if found is None:
            return _NOTHING
        line, same = _by_known(found)
        if not (same & (found["known"][line[1:]] == found["known"][line[:-1]])).any():
            return Revised(*_in_order(found["order"][line[:-1][same]], found["known"][line[1:][same]]))
        found = self._sharing(self.table.keys, which, whole_rows=True) or found
        again, never = _repeated(found, ("row", "second", "first"))
        once = ~np.isin(found["order"], again)
        found = {name: column[once] for name, column in found.items()}
        line, same = _by_known(found)
        order, end = found["order"][line[:-1][same]], found["known"][line[1:][same]]
        return Revised(*_in_order(np.concatenate([order, again]), np.concatenate([end, never])))

    def _sharing(self, columns: Sequence[str], which: str, *, whole_rows: bool = False) -> dict[str, Int64] | None:
        """Rows whose `columns` have a hash that another row's have: `first` and `second` hash, `order`, `known`, and `row`, the hash of all."""
        listed, known = ", ".join(map(quote, columns)), f"epoch_us({quote(self.table.known_time)}::TIMESTAMPTZ)"
        place, paths = f"{known} <= {self.until_us} AND ({which})", [list(self.scan.paths)]
        hashes = self.db.sql(f"SELECT hash({listed}) AS first FROM {FILES} WHERE {place}", params=paths).to_arrow_table()
        sorted_ = np.sort(hashes["first"].to_numpy())
        del hashes
        shared = np.unique(sorted_[1:][sorted_[1:] == sorted_[:-1]])
        if not len(shared):
            return None
        self.db.register("shared", pa.table({"h": shared}))
        row = f", hash({', '.join(map(quote, self.scan.schema.names))}) AS row" if whole_rows else ""
        text = f"""SELECT hash({listed}) AS first, hash({listed}, 'second') AS second, {ORDER} AS order, {known} AS known{row}
                   FROM {FILES} WHERE {place} AND hash({listed}) IN (SELECT h FROM shared)"""
        found = self.db.sql(text, params=paths).to_arrow_table()
        self.db.unregister("shared")
        return {name: found[name].to_numpy() for name in found.column_names}


_NOTHING = Revised(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def _by_known(found: dict[str, Int64]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Rows by identity, known time and order; and which are followed by one of the same identity."""
    line = np.lexsort((found["order"], found["known"], found["second"], found["first"]))
    first, second = found["first"][line], found["second"][line]
    return line, (first[1:] == first[:-1]) & (second[1:] == second[:-1])


def _repeated(found: dict[str, Int64], names: tuple[str, ...]) -> tuple[Int64, Int64]:
    """All rows but the first, by order, of those that are equal in the named hashes; they end before they begin."""
    line = np.lexsort((found["order"], *(found[name] for name in names)))
    again = np.ones(len(line) - 1, dtype=bool)
    for name in names:
        again &= found[name][line[1:]] == found[name][line[:-1]]
    order = found["order"][line[1:][again]]
    return order, np.full(len(order), NEVER, dtype=np.int64)


def _in_order(order: Int64, end: Int64) -> tuple[Int64, Int64]:
    line = np.argsort(order)
    return order[line], end[line]

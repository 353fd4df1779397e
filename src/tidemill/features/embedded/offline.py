"""The embedded offline store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import not_found
from tidemill.features.checks import check_spine, is_number, not_a_number
from tidemill.features.embedded.answers import ZERO, answers
from tidemill.features.embedded.explain import explain
from tidemill.features.embedded.kernels import Keyed, Queries
from tidemill.features.embedded.load import Loader, spine_parts
from tidemill.features.embedded.source import Int64, Rows
from tidemill.features.embedded.timeline import Timeline, encode
from tidemill.features.formula import Formula, formulas
from tidemill.features.ports import AT, SourceRow
from tidemill.versioning.ports import Scan

_BEFORE_ALL = -(2**62)


class DuckOfflineStore:
    """An `OfflineStore` over Parquet files: DuckDB reads and orders them, NumPy answers.

    `memory_limit` is DuckDB's; beyond it, it spills to the system's folder for temporary files. A table with more than `rows_at_once`
    rows goes through memory in parts of its entities.
    """

    def __init__(self, *, threads: int = 2, memory_limit: str = "1GB", rows_at_once: int = 8_000_000) -> None:
        self._threads, self._rows_at_once = threads, rows_at_once
        self._spill = spill = Path(tempfile.gettempdir()) / f"tidemill-duckdb-{os.getpid()}"
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": memory_limit,
            "temp_directory": str(spill),
        }
        self._db = duckdb.connect(config=config)

    def join(self, spine: pa.Table, views: Sequence[FeatureView], scans: Mapping[str, Scan]) -> pa.Table:
        check_spine(spine.schema, views)
        at = pc.cast(spine[AT], pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
        last = pc.max(at).as_py()
        until = _BEFORE_ALL if last is None else last
        times = np.asarray(pc.fill_null(at, 0).to_numpy(), dtype=np.int64)
        rows = SpineRows(spine, times, np.asarray(pc.is_null(at).to_numpy(), dtype=bool))
        columns: dict[str, pa.Array] = {}
        for made in self._tables(rows, views, scans, until):
            columns |= made
        for view in views:
            for column in view.columns:
                spine = spine.append_column(column, columns[column])
        return spine

    def _tables(
        self, rows: SpineRows, views: Sequence[FeatureView], scans: Mapping[str, Scan], until: int
    ) -> Iterator[dict[str, pa.Array]]:
        """The columns of the views, table by table: side by side when all of them together are no more than goes through memory at once."""
        loaders: list[Loader] = []
        for name in dict.fromkeys(v.table.name for v in views):
            if name not in scans:
                raise not_found("scan of table", name, scans)
            mine = [v for v in views if v.table.name == name]
            loaders.append(Loader(self._db.cursor(), scans[name], mine[0].table, mine, until))
        at_once = self._threads if sum(loader.count for loader in loaders) <= self._rows_at_once else 1
        if at_once == 1 or len(loaders) == 1:
            yield from (self._table(rows, loader) for loader in loaders)
            return
        with ThreadPoolExecutor(at_once, thread_name_prefix="tidemill-join") as pool:
            yield from pool.map(lambda loader: self._table(rows, loader), sorted(loaders, key=lambda loader: -loader.count))

    def _table(self, rows: SpineRows, loader: Loader) -> dict[str, pa.Array]:
        """The columns of all views of one table; when it is large, of one view and one part of its entities at a time."""
        parts = -(-loader.count // self._rows_at_once)
        if parts <= 1:
            taken = loader.all()
            return {name: column for view in loader.views for name, column in view_columns(rows, view, taken).items()}
        self._spill.mkdir(parents=True, exist_ok=True)
        columns: dict[str, pa.Array] = {}
        for view in loader.views:
            part = spine_parts(loader.db, rows.table, view.keys, parts)
            made: list[dict[str, pa.Array]] = []
            for i, taken in enumerate(loader.of(view).parts(parts, self._spill)):
                made.append(view_columns(rows.take(np.flatnonzero(part == i)), view, taken))
            place = np.empty(len(part), dtype=np.int64)
            place[np.argsort(part, kind="stable")] = np.arange(len(part))
            columns |= {name: pa.concat_arrays([m[name] for m in made]).take(pa.array(place)) for name in view.columns}
        return columns

    def explain(self, row: Mapping[str, Any], view: FeatureView, scan: Scan, *, limit: int = 200) -> list[SourceRow]:
        return explain(self._db.cursor(), row, view, scan, limit)


@dataclass(frozen=True, slots=True)
class SpineRows:
    """A spine with its times in microseconds; `absent` says where there is none."""

    table: pa.Table
    at: Int64
    absent: npt.NDArray[np.bool_]

    def take(self, places: Int64) -> SpineRows:
        """Some of the rows."""
        return SpineRows(self.table.take(pa.array(places)), self.at[places], self.absent[places])


def view_columns(spine: SpineRows, view: FeatureView, rows: Rows) -> dict[str, pa.Array]:
    """The columns of one view, in the spine's order."""
    at = spine.at
    asked, owned, codes = encode(spine.table, rows.columns, view.keys, view.name)
    valid = np.flatnonzero((asked >= 0) & ~spine.absent)
    valid = valid[Timeline(asked[valid], at[valid], codes).order]
    queries = Queries(asked[valid], at[valid])
    used = np.flatnonzero(owned >= 0)
    if len(used) == len(owned):
        keyed = Keyed(owned, rows.event, rows.known, rows.visible, rows.end, rows.order, codes)
    else:
        keyed = Keyed(owned[used], rows.event[used], rows.known[used], rows.visible[used], rows.end[used], rows.order[used], codes)
    made = answers(view, keyed, rows, used, queries)
    place = np.full(len(at), -1, dtype=np.int64)
    place[valid] = np.arange(len(valid))
    index = pa.array(place, mask=place < 0)
    found = {
        view.full_name(a): pc.fill_null(pc.take(made[a.name], index), 0) if a.kind in ZERO else pc.take(made[a.name], index)
        for a in view.aggregates
        if a.kind != "expression"
    }
    for formula in formulas(view):
        columns = {name: _numbers(formula, name, found[name]) for name in map(view.full_name_of, formula.reads)}
        values = formula.many(columns, len(at))
        found[formula.name] = pa.array(values, mask=np.isnan(values))
    return found


def _numbers(formula: Formula, name: str, values: pa.Array) -> np.ndarray[Any, Any]:
    if not is_number(values.type):
        raise not_a_number(formula.name, name, values.type)
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)

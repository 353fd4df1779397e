"""The embedded offline store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError, not_found
from tidemill.features.embedded.answers import ZERO, answers
from tidemill.features.embedded.explain import explain
from tidemill.features.embedded.fields import is_number
from tidemill.features.embedded.kernels import Keyed, Queries
from tidemill.features.embedded.source import Rows, load
from tidemill.features.embedded.timeline import encode
from tidemill.features.formula import Formula, formulas
from tidemill.features.ports import AT, SourceRow
from tidemill.versioning.ports import Scan


class DuckOfflineStore:
    """An `OfflineStore` over Parquet files: DuckDB reads and orders them, NumPy answers.

    `memory_limit` is DuckDB's; beyond it, it spills to the system's folder for temporary files.
    """

    def __init__(self, *, threads: int = 2, memory_limit: str = "1GB") -> None:
        spill = Path(tempfile.gettempdir()) / f"tidemill-duckdb-{os.getpid()}"
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": memory_limit,
            "temp_directory": str(spill),
        }
        self._db = duckdb.connect(config=config)

    def join(self, spine: pa.Table, views: Sequence[FeatureView], scans: Mapping[str, Scan]) -> pa.Table:
        _check_spine(spine, views)
        at = pc.cast(spine[AT], pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
        until = pc.max(at).as_py()
        times = np.asarray(pc.fill_null(at, 0).to_numpy(), dtype=np.int64)
        absent = np.asarray(pc.is_null(at).to_numpy(), dtype=bool)
        columns: dict[str, pa.ChunkedArray | pa.Array] = {}
        for name in dict.fromkeys(v.table.name for v in views):
            if name not in scans:
                raise not_found("scan of table", name, scans)
            mine = [v for v in views if v.table.name == name]
            rows = load(self._db.cursor(), scans[name], mine[0].table, mine, -(2**62) if until is None else until)
            for view in mine:
                columns |= _view(spine, times, absent, view, rows)
        for view in views:
            for column in view.columns:
                spine = spine.append_column(column, columns[column])
        return spine

    def explain(self, row: Mapping[str, Any], view: FeatureView, scan: Scan, *, limit: int = 200) -> list[SourceRow]:
        return explain(self._db.cursor(), row, view, scan, limit)


def _check_spine(spine: pa.Table, views: Sequence[FeatureView]) -> None:
    wanted = {AT, *(k for v in views for k in v.keys)}
    if missing := sorted(wanted - set(spine.column_names)):
        raise InvalidError(f"the spine lacks {', '.join(missing)}; it has {', '.join(spine.column_names)}")
    kind = spine.schema.field(AT).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidError(f"the spine's column {AT!r} is {kind}; it must be a timestamp with a time zone, timestamp[us, tz=UTC]")
    if twice := sorted(set(spine.column_names) & {c for v in views for c in v.columns}):
        raise InvalidError(f"the spine already has {', '.join(twice)}; rename the column or the feature")


def _view(spine: pa.Table, at: np.ndarray[Any, Any], absent: np.ndarray[Any, Any], view: FeatureView, rows: Rows) -> dict[str, pa.Array]:
    """The columns of one view, in the spine's order."""
    asked, owned, codes = encode(spine, rows.columns, view.keys, view.name)
    valid = np.flatnonzero((asked >= 0) & ~absent)
    queries = Queries(asked[valid], at[valid])
    used = np.flatnonzero(owned >= 0)
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
        raise InvalidError(
            f"the expression {formula.name!r} computes with {name}, which is {values.type}; use an on-demand feature instead"
        )
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)

"""Which source rows stand behind one spine row, and why the others near it do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import duckdb

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.source import check_columns, query, quote
from tidemill.features.ports import AT, SourceRow
from tidemill.versioning.ports import Scan

Use = Literal["used", "not_yet_known", "not_yet_happened", "out_of_window", "superseded", "not_latest"]
_INTERNAL = ("_event", "_known", "_visible", "_end", "_order", "_doubt")


def explain(db: duckdb.DuckDBPyConnection, row: Mapping[str, Any], view: FeatureView, scan: Scan, limit: int) -> list[SourceRow]:
    """Classify the rows of the spine row's entity: used ones first, then the nearest by event time, `limit` in all."""
    if missing := sorted({AT, *view.keys} - set(row)):
        raise InvalidError(f"the row to explain lacks {', '.join(missing)}")
    check_columns(view.table, scan, view.keys)
    at = int(row[AT])
    if not scan.paths or any(row[k] is None for k in view.keys):
        return []
    whole = {name: quote(name) for name in scan.schema.names}
    text = query(view.table, scan, whole, 2**62, distinct=True)
    keys = " AND ".join(f"{quote(k)} = ?" for k in view.keys)
    near = f"SELECT * FROM ({text}) WHERE {keys} ORDER BY abs(_event - ?), _order LIMIT ?"
    params = [list(scan.paths), *(row[k] for k in view.keys), at, max(limit * 4, 1000)]
    rows = db.sql(near, params=params).to_arrow_table().to_pylist()
    latest = max((r for r in rows if r["_visible"] <= at < r["_end"]), key=lambda r: (r["_event"], r["_known"], r["_order"]), default=None)
    shown = [_source_row(view, r, _use(view, r, at, newest=r is latest)) for r in rows]
    return sorted(shown, key=lambda s: (s.use != "used", abs(s.event_us - at)))[:limit]


def _use(view: FeatureView, row: Mapping[str, Any], at: int, *, newest: bool) -> Use:
    """The first reason, in the order in which a reader would ask."""
    if row["_known"] > at:
        return "not_yet_known"
    if row["_end"] <= at:
        return "superseded"
    if row["_event"] > at:
        return "not_yet_happened"
    windows = [a for a in view.aggregates if a.kind != "latest"]
    if any(row["_event"] > (at - a.over_us) // a.hop_us * a.hop_us for a in windows):
        return "used"
    ages = [a.ttl_us for a in view.aggregates if a.kind == "latest"]
    if any(at - row["_event"] <= ttl for ttl in ages):
        return "used" if newest else "not_latest"
    return "out_of_window"


def _source_row(view: FeatureView, row: Mapping[str, Any], use: Use) -> SourceRow:
    values = {k: v for k, v in row.items() if k not in _INTERNAL}
    return SourceRow(view.name, view.table.name, values, row["_event"], row["_known"], use)

"""Which source rows stand behind one spine row, and why the others near it do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import duckdb

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.fields import conditions, fields_of, quote
from tidemill.features.embedded.source import check_columns, query
from tidemill.features.ports import AT, SourceRow
from tidemill.versioning.ports import Scan

Use = Literal["used", "not_yet_known", "not_yet_happened", "out_of_window", "superseded", "not_latest", "filtered"]
_INTERNAL = ("_event", "_known", "_visible", "_end", "_order", "_doubt")
_MASK = re.compile(r"_w\d+")


def explain(db: duckdb.DuckDBPyConnection, row: Mapping[str, Any], view: FeatureView, scan: Scan, limit: int) -> list[SourceRow]:
    """Classify the rows of the spine row's entity: used ones first, then the nearest by event time, `limit` in all."""
    if missing := sorted({AT, *view.keys} - set(row)):
        raise InvalidError(f"the row to explain lacks {', '.join(missing)}")
    check_columns(view.table, scan, view.keys)
    at = int(row[AT])
    if not scan.paths or any(row[k] is None for k in view.keys):
        return []
    masks = {where: f"_w{i}" for i, where in enumerate(conditions(fields_of([view])))}
    whole = {name: quote(name) for name in scan.schema.names} | {name: name for name in masks.values()}
    text = query(view.table, scan, whole, 2**62, where=masks, distinct=True)
    keys = " AND ".join(f"{quote(k)} = ?" for k in view.keys)
    near = f"SELECT * FROM ({text}) WHERE {keys} ORDER BY abs(_event - ?), _order LIMIT ?"
    params = [list(scan.paths), *(row[k] for k in view.keys), at, max(limit * 4, 1000)]
    rows = db.sql(near, params=params).to_arrow_table().to_pylist()
    latest = {where: _latest(rows, at, masks.get(where)) for where in {a.where for a in view.aggregates}}
    shown = [_source_row(view, r, _use(view, r, at, masks, latest)) for r in rows]
    return sorted(shown, key=lambda s: (s.use != "used", abs(s.event_us - at)))[:limit]


def _latest(rows: Sequence[Mapping[str, Any]], at: int, mask: str | None) -> Mapping[str, Any] | None:
    """The row that `latest` takes."""
    counting = (r for r in rows if r["_visible"] <= at < r["_end"] and (mask is None or r[mask]))
    return max(counting, key=lambda r: (r["_event"], r["_known"], r["_order"]), default=None)


def _use(
    view: FeatureView, row: Mapping[str, Any], at: int, masks: Mapping[str, str], latest: Mapping[str, Mapping[str, Any] | None]
) -> Use:
    """The first reason, in the order in which a reader would ask."""
    if row["_known"] > at:
        return "not_yet_known"
    if row["_end"] <= at:
        return "superseded"
    if row["_event"] > at:
        return "not_yet_happened"
    near = [a for a in view.aggregates if _reaches(a, row["_event"], at)]
    if not near:
        return "out_of_window"
    chosen = [a for a in near if not a.where or row[masks[a.where]]]
    if not chosen:
        return "filtered"
    return "used" if any(a.windowed or latest[a.where] is row for a in chosen) else "not_latest"


def _reaches(a: Aggregate, event: int, at: int) -> bool:
    """Whether an event is young enough for a feature."""
    if a.windowed:
        return bool(event > (at - a.over_us) // a.hop_us * a.hop_us)
    return a.kind == "latest" and at - event <= a.ttl_us


def _source_row(view: FeatureView, row: Mapping[str, Any], use: Use) -> SourceRow:
    values = {k: v for k, v in row.items() if k not in _INTERNAL and not _MASK.fullmatch(k)}
    return SourceRow(view.name, view.table.name, values, row["_event"], row["_known"], use)

"""Why a source row counts for a spine row, or does not: the same words whatever engine found the row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.ports import SourceRow

Use = Literal["used", "not_yet_known", "not_yet_happened", "out_of_window", "superseded", "not_latest", "filtered"]
Found = Mapping[str, Any]
"""A row of the table with `_event`, `_known`, `_visible`, `_end`, `_order` (integers) and the columns of conditions."""
_INTERNAL = re.compile(r"_(event|known|visible|end|order|doubt|w\d+)")


def source_rows(view: FeatureView, rows: Sequence[Found], at: int, masks: Mapping[str, str], limit: int) -> list[SourceRow]:
    """Classify rows of one entity: used ones first, then the nearest by event time, `limit` in all. `masks` names the column of each condition."""
    latest = {where: _latest(rows, at, masks.get(where)) for where in {a.where for a in view.aggregates}}
    shown = [_source_row(view, r, _use(view, r, at, masks, latest)) for r in rows]
    return sorted(shown, key=lambda s: (s.use != "used", abs(s.event_us - at)))[:limit]


def _latest(rows: Sequence[Found], at: int, mask: str | None) -> Found | None:
    """The row that `latest` takes."""
    counting = (r for r in rows if r["_visible"] <= at < r["_end"] and (mask is None or r[mask]))
    return max(counting, key=lambda r: (r["_event"], r["_known"], r["_order"]), default=None)


def _use(view: FeatureView, row: Found, at: int, masks: Mapping[str, str], latest: Mapping[str, Found | None]) -> Use:
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


def _source_row(view: FeatureView, row: Found, use: Use) -> SourceRow:
    values = {k: v for k, v in row.items() if not _INTERNAL.fullmatch(k)}
    return SourceRow(view.name, view.table.name, values, row["_event"], row["_known"], use)

"""Which source rows stand behind one spine row, and why the others near it do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import duckdb

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.fields import conditions, fields_of, quote
from tidemill.features.embedded.source import FOREVER, ORDER, check_columns, relation
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
    text = _query(view.table, scan, whole, 2**62, where=masks, distinct=True)
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


def _query(
    table: Table, scan: Scan, picked: dict[str, str], until_us: int, *, where: Mapping[str, str] | None = None, distinct: bool = False
) -> str:
    """The SQL that finds rows, ingestion order and revisions; one parameter, the list of files.

    `where` names a boolean column for each condition, for the expressions in `picked`. With `distinct`, rows that are equal in every
    column count once, as the first of them; `_doubt` marks rows that may need it.
    """
    event, known = (f"epoch_us({quote(c)}::TIMESTAMPTZ)" for c in (table.event_time, table.known_time))
    whole = ", ".join(quote(c) for c in scan.schema.names)
    columns = ", ".join(f"{expression} AS {quote(name)}" for name, expression in picked.items())
    key = "".join(f", {quote(k)} AS _key{i}" for i, k in enumerate(table.keys))
    same = f", hash({whole}) AS _same" if distinct else ""
    raw = f"""SELECT {columns}, {event} AS _event, {known} AS _known,
                     {ORDER} AS _order{key}{same}
              FROM {relation(scan, where or {})} WHERE {known} <= {until_us}"""
    once = (
        "SELECT * FROM raw QUALIFY row_number() OVER (PARTITION BY _known, _event, _same ORDER BY _order) = 1"
        if distinct
        else "SELECT * FROM raw"
    )
    end, doubt = str(FOREVER), "true"
    if table.keys:
        names = [f"_key{i}" for i in range(len(table.keys))]
        whole_key = " AND ".join(f"{n} IS NOT NULL" for n in names)
        following = f"lead(_known) OVER (PARTITION BY {', '.join(names)} ORDER BY _known, _order)"
        doubt = f"NOT ({whole_key}) OR _end = _known"
        end = f"CASE WHEN {whole_key} THEN coalesce({following}, {FOREVER}) ELSE {FOREVER} END"
    kept = ", ".join(quote(name) for name in picked)
    return f"""WITH raw AS ({raw}), once AS ({once}), revised AS (SELECT *, {end} AS _end FROM once)
               SELECT {kept}, _event, _known, greatest(_event, _known) AS _visible, _end::BIGINT AS _end, _order, {doubt} AS _doubt
               FROM revised WHERE _event IS NOT NULL"""

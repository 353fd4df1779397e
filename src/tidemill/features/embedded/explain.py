"""Which source rows stand behind one spine row, and why the others near it do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.features.checks import check_columns
from tidemill.features.embedded.source import FOREVER, ORDER, relation
from tidemill.features.fields import conditions, fields_of, quote
from tidemill.features.ports import AT, SourceRow
from tidemill.features.reasons import source_rows
from tidemill.versioning.ports import Scan


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
    return source_rows(view, rows, at, masks, limit)


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

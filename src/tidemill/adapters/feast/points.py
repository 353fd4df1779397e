"""The rows that a Feast view is exported over: a table's current rows, or a view's values at each moment at which they change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.definitions import FeatureView, Table
from tidemill.features.ports import AT, OfflineStore
from tidemill.versioning.ports import Scan

UTC_US = pa.timestamp("us", "UTC")
Int64 = npt.NDArray[np.int64]


def rows_of(scan: Scan) -> pa.Table:
    """All rows of a scan, in the order of ingestion."""
    return ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table() if scan.paths else scan.schema.empty_table()


def current(table: Table, rows: pa.Table, now_us: int) -> pa.Table:
    """The rows that are known now and that no correction has replaced."""
    known = _micros(rows, table.known_time)
    rows, known = rows.filter(pa.array(known <= now_us)), known[known <= now_us]
    if not table.keys or not rows.num_rows:
        return rows
    order = np.argsort(known, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    ranked = rows.select(list(table.keys)).append_column("~rank", pa.array(rank))
    last = ranked.group_by(list(table.keys)).aggregate([("~rank", "max")])["~rank_max"].to_numpy()
    return rows.take(pa.array(np.sort(order[last])))


def is_plain(view: FeatureView) -> bool:
    """Whether a view is what Feast means by one: newest values of columns under their own names, with one ttl."""
    plain = all(a.kind == "latest" and not a.where and a.name == a.column for a in view.aggregates)
    return plain and len({a.ttl_us for a in view.aggregates}) == 1


def plain_rows(view: FeatureView, scan: Scan, now_us: int) -> pa.Table:
    """Rows for a plain view: keys, both clocks and the columns; what has not happened yet is left out."""
    table = view.table
    rows = current(table, rows_of(scan), now_us)
    rows = rows.filter(pa.array(_micros(rows, table.event_time) <= now_us))
    names = [*view.keys, table.event_time, table.known_time, *(str(a.column) for a in view.aggregates)]
    return _whole(rows.select(list(dict.fromkeys(names))), view.keys)


def change_rows(view: FeatureView, scan: Scan, offline: OfflineStore, now_us: int) -> pa.Table:
    """A view's values at every moment up to now at which those of a key may change, equal neighbours left out.

    Columns: the keys, `changed` (when the values became what they are) and the features by their short names. Between two rows of a
    key nothing changes, so the newest row at any time has the values of that time, by both clocks.
    """
    spine = _spine(view, rows_of(scan), now_us)
    joined = offline.join(spine, [view], {view.table.name: scan}).sort_by([*((k, "ascending") for k in view.keys), (AT, "ascending")])
    short = {view.full_name(a): a.name for a in view.aggregates}
    named = joined.select([*view.keys, AT, *short]).rename_columns([*view.keys, "changed", *short.values()])
    return named.filter(pa.array(_changed(named, view.keys)))


def _spine(view: FeatureView, rows: pa.Table, now_us: int) -> pa.Table:
    """Keys and the times at which a row begins to count, leaves a window, grows too old or is replaced."""
    table = view.table
    event, known = _micros(rows, table.event_time), _micros(rows, table.known_time)
    visible = np.maximum(event, known)
    all_rows = np.arange(rows.num_rows)
    windows = {(a.over_us, a.hop_us) for a in view.aggregates if a.windowed}
    ages = {a.ttl_us for a in view.aggregates if a.kind == "latest"}
    pieces = [(all_rows, visible)]
    pieces += [(all_rows, np.maximum(-(-event // hop) * hop + over, visible)) for over, hop in windows]
    pieces += [(all_rows, np.maximum(event + ttl + 1, visible)) for ttl in ages]
    if table.keys:
        pieces.append(_replaced(table, rows, known))
    place, at = np.concatenate([p for p, _ in pieces]), np.concatenate([t for _, t in pieces])
    place, at = place[at <= now_us], at[at <= now_us]
    spine = rows.select(list(view.keys)).take(pa.array(place)).append_column(AT, pa.array(at).cast(UTC_US))
    spine = _whole(spine, view.keys)
    return spine.group_by(spine.column_names).aggregate([])


def _replaced(table: Table, rows: pa.Table, known: Int64) -> tuple[Int64, Int64]:
    """Each row that a correction replaces, with the time at which the correction is known; the key may be another one from then on."""
    order = np.argsort(known, kind="stable")
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in table.keys:
        encoded = pc.dictionary_encode(rows[name].combine_chunks())
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        codes = np.unique(codes * (len(encoded.dictionary) + 1) + encoded.indices.fill_null(-1).to_numpy() + 1, return_inverse=True)[1]
    order = order[np.argsort(codes[order], kind="stable")]
    same = codes[order][1:] == codes[order][:-1]
    return order[:-1][same], known[order][1:][same]


def _changed(rows: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each row differs from the one before it in its key or in a value."""
    changed = np.zeros(rows.num_rows, dtype=bool)
    if rows.num_rows:
        changed[0] = True
    for name in rows.column_names:
        if name == "changed":
            continue
        column = rows[name].combine_chunks()
        before, after = column.slice(0, len(column) - 1 if len(column) else 0), column.slice(1)
        differs = pc.fill_null(pc.not_equal(before, after), True)
        both = pc.and_(pc.is_null(before), pc.is_null(after))
        changed[1:] |= np.asarray(pc.and_not(differs, both)) if name not in keys else np.asarray(differs)
    return changed


def _whole(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Rows without those whose key is null: nothing can ask for them."""
    for key in keys:
        rows = rows.filter(pc.is_valid(rows[key]))
    return rows


def _micros(rows: pa.Table, name: str) -> Int64:
    return np.asarray(pc.cast(rows[name], UTC_US, safe=False).cast(pa.int64()).to_numpy(), dtype=np.int64)

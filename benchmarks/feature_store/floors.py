"""Hand-written floors on two clocks: what somebody who knows these data would write with NumPy or DuckDB, and nothing more.

`newest` and `windows` work on sorted arrays; `range_join` and `newest_sql` are the plain SQL, which also serve as the truth
that every answer at size is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data import DAY, SECOND, TTL_DAYS, WIDTHS, Int64, micros

Float64 = npt.NDArray[np.float64]
_PAIRS = 4_000_000
_FOREVER = np.iinfo(np.int64).max


def ends(identity: Int64, known: Int64) -> Int64:
    """When the next revision of each row's identity becomes known; for ever where there is none."""
    order = np.lexsort((known, identity))
    same = identity[order][1:] == identity[order][:-1]
    found = np.full(len(order), _FOREVER)
    found[order[:-1][same]] = known[order[1:][same]]
    return found


def newest(key: Int64, event: Int64, known: Int64, asked: Int64, at: Int64, ttl_us: int, end: Int64 | None = None) -> Int64:
    """The row with the greatest (event, known) that has happened and is known at each asked (key, time), -1 where there is none.

    Without `end`, a row that corrects another has to have its key and event time: then the greater known time is enough to prefer it.
    """
    order = np.lexsort((known, event, key))
    zero, width = int(min(event.min(), at.min())), int(max(event.max(), at.max()) - min(event.min(), at.min())) + 1
    places = key[order] * width + (event[order] - zero)
    place = np.searchsorted(places, asked * width + (at - zero), side="right") - 1
    best = np.full(len(asked), -1)
    open_ = np.flatnonzero(place >= 0)
    while len(open_):
        row = order[place[open_]]
        alive = (key[row] == asked[open_]) & (event[row] >= at[open_] - ttl_us)
        open_, row = open_[alive], row[alive]
        seen = known[row] <= at[open_]
        if end is not None:
            seen &= at[open_] < end[row]
        best[open_[seen]] = row[seen]
        open_ = open_[~seen]
        place[open_] -= 1
        open_ = open_[place[open_] >= 0]
    return best


def windows(
    rows: tuple[Int64, Int64, Int64, Int64, Float64], asked: Int64, at: Int64, spans: Sequence[tuple[int, int]]
) -> list[tuple[Int64, Float64]]:
    """Count and mean of the values in each (over, hop) of `spans`, by looking at every row of the longest window.

    `rows`: key, event time, known time, end and value, all finite.
    """
    key, event, known, end, value = rows
    order = np.lexsort((event, key))
    zero, width = int(min(event.min(), at.min())), int(max(event.max(), at.max()) - min(event.min(), at.min())) + 1
    places = key[order] * width + (event[order] - zero)
    event, known, end, value = event[order], known[order], end[order], value[order]
    lows = [(at - over) // hop * hop for over, hop in spans]
    first = np.maximum(np.minimum.reduce(lows) - zero, -1)
    left = np.searchsorted(places, asked * width + first, side="right")
    right = np.searchsorted(places, asked * width + (at - zero), side="right")
    found = [(np.zeros(len(at), dtype=np.int64), np.zeros(len(at))) for _ in spans]
    for query, position in _pairs(left, right):
        time = at[query]
        seen = (known[position] <= time) & (time < end[position])
        query, position = query[seen], position[seen]
        for low, (n, total) in zip(lows, found, strict=True):
            inside = event[position] > low[query]
            n += np.bincount(query[inside], minlength=len(at))
            total += np.bincount(query[inside], value[position[inside]], minlength=len(at))
    with np.errstate(invalid="ignore"):
        return [(n, total / n) for n, total in found]


def _pairs(left: Int64, right: Int64):  # type: ignore[no-untyped-def]
    """Query numbers with each position in [left, right), a few million at a time."""
    total = np.cumsum(right - left)
    first = 0
    while first < len(left):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + _PAIRS, side="right")))
        size = right[first:last] - left[first:last]
        query = np.repeat(np.arange(first, last), size)
        yield query, left[query] + np.arange(len(query)) - np.repeat(np.cumsum(size) - size, size)
        first = last


def training_set_by_numpy(folder: Path) -> pa.Table:
    """The spine with the ten features of the three views, from files, on two clocks."""
    spine = pq.read_table(folder / "spine.parquet")
    asked, at = spine["key"].to_numpy(), micros(spine["at"])
    for name, width in WIDTHS.items():
        rows = pq.read_table(folder / name)
        row = newest(rows["key"].to_numpy(), micros(rows["ts"]), micros(rows["created"]), asked, at, TTL_DAYS * DAY * SECOND)
        index = pa.array(row, mask=row < 0)
        for i in range(width):
            spine = spine.append_column(f"{name}{i}", rows[f"{name}{i}"].take(index))
    return spine


def training_set_by_sql(folder: Path, *, clocks: int = 2) -> pa.Table:
    """The same as plain SQL: a range join and a maximum for each view. With one clock, what is not yet known counts as well."""
    known = "AND r.created <= s.at" if clocks == 2 else ""
    parts, columns = [], []
    for name, width in WIDTHS.items():
        made = ", ".join(f"arg_max_null(r.{name}{i}, (r.ts, r.created)) AS {name}{i}" for i in range(width))
        columns += [f"{name}{i}" for i in range(width)]
        parts.append(
            f"""(SELECT s.row, {made} FROM spine s JOIN read_parquet('{folder}/{name}/*.parquet') r ON r.key = s.key AND r.ts <= s.at
                 {known} AND r.ts >= s.at - INTERVAL {TTL_DAYS} DAY GROUP BY s.row)"""
        )
    joins = " ".join(f"LEFT JOIN {part} p{i} USING (row)" for i, part in enumerate(parts))
    db = duckdb.connect(config={"threads": 2})
    db.execute(f"CREATE VIEW spine AS FROM read_parquet('{folder}/spine.parquet')")
    return db.sql(f"SELECT spine.key, spine.at, row, {', '.join(columns)} FROM spine {joins} ORDER BY row").to_arrow_table()


def windows_by_numpy(home: Path, spans: Sequence[tuple[int, int]]) -> list[tuple[Int64, Float64]]:
    """Count and mean of the amounts, from files, by looking at every row of the longest window."""
    rows, spine = pq.read_table(home / "events"), pq.read_table(home / "spine.parquet")
    known = micros(rows["created"])
    packed = (rows["key"].to_numpy(), micros(rows["ts"]), known, ends(rows["event"].to_numpy(), known), rows["amount"].to_numpy())
    return windows(packed, spine["key"].to_numpy(), micros(spine["at"]), spans)


def windows_by_sql(home: Path, spans: Sequence[tuple[int, int]], *, sample: int = 0, memory: str = "8GB") -> pa.Table:
    """The hand-written range join on two clocks; with `sample`, for every n-th spine row only. Columns n0, m0, n1, m1, …

    DuckDB has no index on (key, time), so events and windows also meet by the hours that they lie in: without that, each
    key's rows would all be compared with all its windows.
    """
    longest = max(over + hop for over, hop in spans)
    bucket = max(3_600 * SECOND, longest // 4)
    made = []
    for i, (over, hop) in enumerate(spans):
        inside = f"FILTER (r.ts_us > (s.at_us - {over}) // {hop} * {hop})"
        made += [f"count(r.amount) {inside} AS n{i}", f"avg(r.amount) {inside} AS m{i}"]
    chosen = f"WHERE row % {sample} = 0" if sample else ""
    db = duckdb.connect(config={"threads": 2, "memory_limit": memory, "temp_directory": str(home / "spill")})
    db.execute(
        f"""CREATE TABLE spine AS SELECT row, key, epoch_us("at") AS at_us FROM read_parquet('{home}/spine.parquet') {chosen};
            CREATE TABLE asked AS SELECT *, unnest(range((at_us - {longest}) // {bucket}, at_us // {bucket} + 1)) AS b FROM spine"""
    )
    mine = "WHERE key IN (SELECT key FROM spine)" if sample else ""
    return db.sql(
        f"""WITH r AS (SELECT key, epoch_us(ts) AS ts_us, epoch_us(created) AS known_us, amount, epoch_us(ts) // {bucket} AS b,
                       coalesce(lead(epoch_us(created)) OVER (PARTITION BY event ORDER BY created), {_FOREVER}) AS end_us
                       FROM read_parquet('{home}/events/*.parquet') {mine}),
                 j AS (SELECT s.row, {", ".join(made)} FROM asked s JOIN r ON r.key = s.key AND r.b = s.b AND r.ts_us <= s.at_us
                       AND r.known_us <= s.at_us AND s.at_us < r.end_us GROUP BY s.row)
            SELECT row, COLUMNS('^n') , COLUMNS('^m') FROM spine LEFT JOIN j USING (row) ORDER BY row"""
    ).to_arrow_table()

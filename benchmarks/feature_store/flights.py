"""The flights of the demo: features of five views for every scheduled flight, and the same values online.

Tasks: flights_training_set (each flight at its own time, on two clocks; the floors are a range join written by hand in DuckDB and
the same in NumPy, both with the same answers, which are compared), flights_push (rows of the streams into online state),
flights_read (all features of one request, in the process that holds the state) and flights_read_store (the same from another
process through SQLite; the floor reads as many rows by primary key with sqlite3). Needs `pip install 'tidemill[demo]'`.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import kit
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store import checks, floors
from feature_store.data import micros
from feature_store.floors import Float64, Int64
from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.instants import DAY_US
from tidemill.features.embedded import DuckOfflineStore, OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.versioning.ports import Scan

DEPARTURES = Table("departures", "files:departures", "left_at", "recorded_at", key="flight")
LANDINGS = Table("landings", "files:landings", "landed_at", "recorded_at", key="flight")
WEATHER = Table("weather", "files:weather", "observed_at", "published_at", key=("origin", "observed_at"))
ORIGIN, DEST, CARRIER, PLANE = Entity("origin"), Entity("dest"), Entity("carrier"), Entity("plane", key="tailnum")
VIEWS = (
    FeatureView("traffic", ORIGIN, DEPARTURES, [mean("dep_delay", over="3h", hop="5m"), count(over="3h", hop="5m")]),
    FeatureView("arrivals", DEST, LANDINGS, [mean("arr_delay", over="6h", hop="5m")]),
    FeatureView("form", CARRIER, LANDINGS, [mean("arr_delay", over="24h", hop="1h")]),
    FeatureView("legs", PLANE, LANDINGS, [latest("arr_delay", ttl="2d")]),
    FeatureView("sky", ORIGIN, WEATHER, [latest("wind_speed", "visib", "precip", "temp", ttl="6h")]),
)
FLOOR, FLOOR_SQL, BY_KEY = "floor-numpy", "hand-written range join", "floor-sqlite"
BUDGET_S = 1800.0
"""What the range join may take: it compares every departure of an airport with every flight from there."""
TASKS = ("flights_training_set", "flights_push", "flights_read", "flights_commit", "flights_read_store")


class Flights:
    """The streams of a year (or two months) as files, and the spine: every scheduled flight, an hour ahead."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        _make_data()(folder, end="2013-03-01" if quick else "2014-01-01")
        self.folder, self.scans = folder, {t.name: _scan(folder, t.name) for t in (DEPARTURES, LANDINGS, WEATHER)}
        spine = pq.read_table(folder / "schedule")
        at = pc.subtract(spine["scheduled_at"], pa.scalar(3_600_000_000, pa.duration("us")))
        self.spine = spine.select(["flight", "origin", "dest", "carrier", "tailnum"]).append_column("at", at).sort_by("at")


def _make_data() -> Callable[..., dict[str, int]]:
    path = Path(__file__).parents[2] / "examples" / "flights" / "make_data.py"
    spec = importlib.util.spec_from_file_location("make_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_data"] = module
    spec.loader.exec_module(module)
    make: Callable[..., dict[str, int]] = module.make
    return make


def _scan(folder: Path, name: str) -> Scan:
    paths = tuple(str(p) for p in sorted((folder / name).glob("*.parquet")))
    return Scan(name, 1, pq.read_schema(paths[0]), paths)


def by_hand(flights: Flights) -> pa.Table:
    """The same features as plain SQL: one range join for each view. Raises `TimeoutError` when it takes longer than its budget."""
    db = duckdb.connect(config={"threads": 2})
    late = threading.Timer(BUDGET_S, db.interrupt)
    late.start()
    try:
        return _range_join(db, flights)
    except duckdb.InterruptException as error:
        raise TimeoutError(f"over {BUDGET_S:g} s") from error
    finally:
        late.cancel()


def _range_join(db: duckdb.DuckDBPyConnection, flights: Flights) -> pa.Table:
    db.register("given", flights.spine)
    db.execute("CREATE TABLE spine AS SELECT *, row_number() OVER () AS row FROM given")
    for table in (DEPARTURES, LANDINGS, WEATHER):
        key, known = ", ".join(table.keys), table.known_time
        db.execute(
            f"""CREATE TABLE {table.name} AS SELECT *, coalesce(lead({known}) OVER (PARTITION BY {key} ORDER BY {known}), 'infinity') AS replaced
                FROM read_parquet('{flights.folder}/{table.name}/*.parquet', filename = true, file_row_number = true)"""
        )
    parts = [_sql(view) for view in VIEWS]
    columns = ", ".join(c for view in VIEWS for c in view.columns)
    joins = " ".join(f"LEFT JOIN ({part}) p{i} USING (row)" for i, part in enumerate(parts))
    return db.sql(f"SELECT {columns} FROM spine {joins} ORDER BY row").to_arrow_table()


def _sql(view: FeatureView) -> str:
    table, a = view.table, view.aggregates[0]
    event, known, key = table.event_time, table.known_time, view.keys[0]
    if a.kind == "latest":
        since = f"s.at - INTERVAL '{a.ttl_us} microseconds' <= r.{event}"
        made = ", ".join(
            f"(arg_max_null(r.{f.column}, (r.{event}, r.{known}, r.filename, r.file_row_number))) AS {view.full_name(f)}"
            for f in view.aggregates
        )
    else:
        since = f"make_timestamptz((epoch_us(s.at) - {a.over_us}) // {a.hop_us} * {a.hop_us}) < r.{event}"
        made = ", ".join(
            f"{'count(r.' + event + ')' if f.column is None else f'avg(r.{f.column})'} AS {view.full_name(f)}" for f in view.aggregates
        )
    return f"""SELECT s.row, {made} FROM spine s LEFT JOIN {table.name} r
               ON r.{key} = s.{key} AND {since} AND r.{event} <= s.at AND r.{known} <= s.at AND s.at < r.replaced GROUP BY s.row"""


def by_numpy(flights: Flights) -> dict[str, Float64]:
    """The same features on sorted arrays; columns by full name."""
    made: dict[str, Float64] = {}
    at = micros(flights.spine["at"])
    for view in VIEWS:
        rows = pq.read_table(flights.folder / view.table.name)
        asked, key = _codes(flights.spine[view.keys[0]], rows[view.keys[0]])
        event, known = micros(rows[view.table.event_time]), micros(rows[view.table.known_time])
        end = floors.ends(_identity(rows, view.table), known)
        for a in view.aggregates:
            name = view.full_name(a)
            if a.kind == "latest":
                row = floors.newest(key, event, known, asked, at, a.ttl_us, end)
                value = checks.numbers(rows[str(a.column)])
                made[name] = np.where((row >= 0) & (asked >= 0), value[row], np.nan)
                continue
            value = checks.numbers(rows[a.column]) if a.column else np.zeros(rows.num_rows)
            some = np.flatnonzero((key >= 0) & ~np.isnan(value))
            packed = (key[some], event[some], known[some], end[some], value[some])
            n, mean = floors.windows(packed, asked, at, [(a.over_us, a.hop_us)])[0]
            made[name] = n.astype(np.float64) if a.kind == "count" else mean
    return made


def _codes(asked: pa.ChunkedArray, keys: pa.ChunkedArray) -> tuple[Int64, Int64]:
    """Keys as numbers, -1 where they are null."""
    both = pa.chunked_array([*asked.chunks, *keys.chunks]).combine_chunks().dictionary_encode()
    codes = np.asarray(pc.fill_null(both.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    return codes[: len(asked)], codes[len(asked) :]


def _identity(rows: pa.Table, table: Table) -> Int64:
    """One number for each value of the table's key."""
    found = np.zeros(rows.num_rows, dtype=np.int64)
    for name in table.keys:
        codes = np.asarray(rows[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        found = np.unique(found * (codes.max() + 1) + codes, return_inverse=True)[1]
    return found


def training_set(flights: Flights, rounds: int, *, quick: bool) -> None:
    """Ours and the floors; all answers are compared with the range join's, or with NumPy's where that took too long."""
    spent, failures, answers = kit.Spent(), dict[str, str](), dict[str, dict[str, Float64]]()
    columns = [c for view in VIEWS for c in view.columns]

    def measured(tool: str, call: Callable[[], Any]) -> Callable[[], float]:
        def measure() -> float:
            kept: list[Any] = []
            wall = spent.seconds(tool, lambda: kept.append(call()))
            answers[tool] = {c: checks.numbers(kept[0][c]) if isinstance(kept[0], pa.Table) else kept[0][c] for c in columns}
            wrong = sum(checks.unlike(answers[tool][c], other[c]) for other in answers.values() for c in columns)
            if wrong:
                raise kit.WrongError(f"{wrong} cells differ between {', '.join(answers)}")
            return wall

        return measure

    tools = {
        FLOOR_SQL: measured(FLOOR_SQL, lambda: by_hand(flights)),
        kit.OURS: measured(kit.OURS, lambda: DuckOfflineStore().join(flights.spine, VIEWS, flights.scans)),
        FLOOR: measured(FLOOR, lambda: by_numpy(flights)),
    }
    found = kit.interleave(tools, rounds, slow={} if quick else {FLOOR_SQL: 1}, failures=failures)
    facts = {kit.OURS: {"rows": flights.spine.num_rows}}
    kit.report("flights_training_set", found, "s", floor=FLOOR, extra=spent.facts(**facts), failures=failures)


class Online:
    """The streams, pushed a day at a time in the order in which they became known, as a replay does."""

    def __init__(self, flights: Flights, path: Path) -> None:
        self.definitions = Definitions(views={v.name: v for v in VIEWS})
        self.path, self.processor = path, ViewProcessor(SqliteOnlineStore(path), self.definitions)
        self.rows = {t.name: pq.read_table(flights.folder / t.name).sort_by(t.known_time) for t in (DEPARTURES, LANDINGS, WEATHER)}
        tables = {t.name: t for t in (DEPARTURES, LANDINGS, WEATHER)}
        self.known = {n: np.asarray(r[tables[n].known_time].cast(pa.int64())) for n, r in self.rows.items()}
        self.at = flights.spine["at"].cast(pa.int64()).to_pylist()
        self.requests: list[dict[str, Any]] = flights.spine.select(["origin", "dest", "carrier", "tailnum"]).to_pylist()

    def replay(self, days: int) -> tuple[float, float, float]:
        """Microseconds a pushed row, microseconds a read, milliseconds a commit."""
        first, pushed, spent = self.at[0] // DAY_US * DAY_US, 0, [0.0, 0.0, 0.0]
        done = 0
        for day in range(days):
            until = first + (day + 1) * DAY_US
            start = time.perf_counter()
            for name, rows in self.rows.items():
                low, high = np.searchsorted(self.known[name], [until - DAY_US if day else -(2**62), until])
                pushed += self.processor.push(name, rows.slice(low, high - low))
            middle = time.perf_counter()
            while done < len(self.at) and self.at[done] < until:
                self.processor.read(VIEWS, [self.requests[done]], self.at[done])
                done += 1
            last = time.perf_counter()
            self.processor.commit()
            spent = [spent[0] + middle - start, spent[1] + last - middle, spent[2] + time.perf_counter() - last]
        return spent[0] / pushed * 1e6, spent[1] / max(done, 1) * 1e6, spent[2] / days * 1e3


def online(flights: Flights, folder: Path, rounds: int, *, quick: bool) -> None:
    found, stream = [], Online(flights, folder / "first.db")
    for turn in range(rounds):
        stream = Online(flights, folder / f"online-{turn}.db")
        found.append(stream.replay(20 if quick else 60))
    for task, unit, values in zip(TASKS[1:4], ("us/row", "us/request", "ms/day"), zip(*found, strict=True), strict=True):
        kit.report(task, {kit.OURS: list(values)}, unit)
    reader, floor = OnlineReader(SqliteOnlineStore(stream.path), stream.definitions), _by_key(folder / "floor.db", stream)
    now, draw = stream.at[-1], random.Random(1)
    asked = [stream.requests[draw.randrange(len(stream.requests))] for _ in range(500)]

    def ours() -> float:
        return _median([kit.seconds(lambda r=r: reader.read(VIEWS, [r], now)) for r in asked])  # type: ignore[misc]

    def plain() -> float:
        return _median([kit.seconds(lambda r=r: floor(r)) for r in asked])  # type: ignore[misc]

    kit.report("flights_read_store", kit.interleave({"tidemill-sqlite": ours, BY_KEY: plain}, 5), "us", scale=1e6, floor=BY_KEY)


def _by_key(path: Path, stream: Online) -> Callable[[dict[str, Any]], object]:
    """Finished values by key: what a store that never has to be right about time would read."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    for view in VIEWS:
        db.execute(f"CREATE TABLE {view.name} (key TEXT PRIMARY KEY, {', '.join(view.columns)})")
        keys = {r[view.keys[0]] for r in stream.requests} - {None}
        db.executemany(
            f"INSERT INTO {view.name} VALUES (?{', ?' * len(view.columns)})", [(k, *([math.pi] * len(view.columns))) for k in keys]
        )
    db.commit()
    queries = [(f"SELECT * FROM {v.name} WHERE key = ?", v.keys[0]) for v in VIEWS]
    return lambda request: [db.execute(sql, (request[key],)).fetchone() for sql, key in queries]


def _median(values: list[float]) -> float:
    return statistics.median(values)


def run(options: kit.Options, folder: Path) -> None:
    """The tasks that were asked for."""
    if not any(options.wants(task) for task in TASKS):
        return
    flights = Flights(folder / "flights", quick=options.quick)
    if options.wants(TASKS[0]):
        training_set(flights, 3 if options.quick else 5, quick=options.quick)
    if any(options.wants(task) for task in TASKS[1:]):
        online(flights, folder, 2 if options.quick else 5, quick=options.quick)

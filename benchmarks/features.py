"""What features cost: a training set from a year of flights, and the same values online.

    python benchmarks/features.py [TASK …] [--json] [--quick]

Tasks: training_set (five views of the flights project for every scheduled flight, each at its own time, on two clocks; the floor is
a range join written by hand in DuckDB with the same answers, which are compared), push (rows of the streams into online state) and
read (all features of one request, in the process that holds the state), read_store (the same from another process through SQLite;
the floor reads as many rows by primary key with sqlite3). Needs `pip install 'tidemill[demo]'` for the data.
"""

from __future__ import annotations

import importlib.util
import math
import random
import resource
import sqlite3
import statistics
import sys
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

from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.instants import DAY_US
from tidemill.features.embedded import DuckOfflineStore, OnlineReader, SqliteOnlineStore, TileProcessor
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
FLOOR = "range join by hand"
BY_KEY = "sqlite3 by key"


class Flights:
    """The streams of a year (or two months) as files, and the spine: every scheduled flight, an hour ahead."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        _make_data()(folder, end="2013-03-01" if quick else "2014-01-01")
        self.folder, self.scans = folder, {t.name: _scan(folder, t.name) for t in (DEPARTURES, LANDINGS, WEATHER)}
        spine = pq.read_table(folder / "schedule")
        at = pc.subtract(spine["scheduled_at"], pa.scalar(3_600_000_000, pa.duration("us")))
        self.spine = spine.select(["flight", "origin", "dest", "carrier", "tailnum"]).append_column("at", at).sort_by("at")


def _make_data() -> Callable[..., dict[str, int]]:
    path = Path(__file__).parents[1] / "examples" / "flights" / "make_data.py"
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
    """The same features as plain SQL: one range join for each view."""
    db = duckdb.connect(config={"threads": 2})
    db.register("given", flights.spine)
    db.execute("CREATE TABLE spine AS SELECT *, row_number() OVER () AS row FROM given")
    for table in (DEPARTURES, LANDINGS, WEATHER):
        key, known = ", ".join(table.keys), table.known_time
        db.execute(
            f"""CREATE TABLE {table.name} AS SELECT *, coalesce(lead({known}) OVER (PARTITION BY {key} ORDER BY {known}), 'infinity') AS replaced
                FROM read_parquet('{flights.folder}/{table.name}/*.parquet')"""
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
        made = ", ".join(f"(arg_max_null(r.{f.column}, (r.{event}, r.{known}))) AS {view.full_name(f)}" for f in view.aggregates)
    else:
        since = f"make_timestamptz((epoch_us(s.at) - {a.over_us}) // {a.hop_us} * {a.hop_us}) < r.{event}"
        made = ", ".join(
            f"{'count(r.' + event + ')' if f.column is None else f'avg(r.{f.column})'} AS {view.full_name(f)}" for f in view.aggregates
        )
    return f"""SELECT s.row, {made} FROM spine s LEFT JOIN {table.name} r
               ON r.{key} = s.{key} AND {since} AND r.{event} <= s.at AND r.{known} <= s.at AND s.at < r.replaced GROUP BY s.row"""


def differences(one: pa.Table, other: pa.Table) -> int:
    """Cells that differ by more than 1e-9 relative."""
    found = 0
    for view in VIEWS:
        for name in view.columns:
            a, b = (np.asarray(t[name].cast(pa.float64()).to_numpy(), dtype=np.float64) for t in (one, other))
            found += int((~(np.isclose(a, b, rtol=1e-9, atol=0) | (np.isnan(a) & np.isnan(b)))).sum())
    return found


def training_set(flights: Flights, rounds: int) -> None:
    store, kept = DuckOfflineStore(), dict[str, pa.Table]()

    def ours() -> float:
        return kit.seconds(lambda: kept.update(ours=store.join(flights.spine, VIEWS, flights.scans)))

    def floor() -> float:
        return kit.seconds(lambda: kept.update(floor=by_hand(flights)))

    ours()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = kit.interleave({kit.OURS: ours, FLOOR: floor}, rounds)
    facts = {"rows": flights.spine.num_rows, "differences": differences(kept["ours"], kept["floor"]), "peak_mb": peak}
    kit.report("training_set", measured, "s", floor=FLOOR, extra={kit.OURS: facts})


class Online:
    """The streams, pushed a day at a time in the order in which they became known, as a replay does."""

    def __init__(self, flights: Flights, path: Path) -> None:
        self.definitions = Definitions(views={v.name: v for v in VIEWS})
        self.path, self.processor = path, TileProcessor(SqliteOnlineStore(path), self.definitions)
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
    for task, unit, values in zip(("push", "read", "commit"), ("us/row", "us/request", "ms/day"), zip(*found, strict=True), strict=True):
        kit.report(task, {kit.OURS: list(values)}, unit)
    reader, floor = OnlineReader(SqliteOnlineStore(stream.path), stream.definitions), _by_key(folder / "floor.db", stream)
    now, draw = stream.at[-1], random.Random(1)
    asked = [stream.requests[draw.randrange(len(stream.requests))] for _ in range(500)]

    def ours() -> float:
        return _median([kit.seconds(lambda r=r: reader.read(VIEWS, [r], now)) for r in asked])  # type: ignore[misc]

    def plain() -> float:
        return _median([kit.seconds(lambda r=r: floor(r)) for r in asked])  # type: ignore[misc]

    kit.report("read_store", kit.interleave({kit.OURS: ours, BY_KEY: plain}, 5), "us", scale=1e6, floor=BY_KEY)


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


def main() -> None:
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "duckdb", "numpy", "pyarrow")
    with kit.scratch() as folder:
        flights = Flights(folder / "data", quick=options.quick)
        if options.wants("training_set"):
            training_set(flights, 3)
        if any(options.wants(t) for t in ("push", "read", "commit", "read_store")):
            online(flights, folder, 2 if options.quick else 5, quick=options.quick)


if __name__ == "__main__":
    main()

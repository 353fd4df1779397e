"""read_1 and read_100 (milliseconds of a read), materialize (keys a second) and stream_update (events a second)."""

from __future__ import annotations

import gc
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import floors, stores
from feature_store.data import DAY, EVENTS, NOW_US, SECOND, STREAM_VIEW, VIEWS, WIDE, WIDE_VIEW, Sizes, micros, newest_rows, scan
from feature_store.floors import Int64
from feature_store.peer import Feast
from tidemill.core.definitions import Definitions
from tidemill.features import materialize as materialize_views
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.features.pieces import Published
from tidemill.retraining.follow import collect_less

READS = 300
BATCH = 50_000
"""Events of one commit."""


class Readers:
    """Every store filled with the same rows, and how each is read: keys in, an answer for each out."""

    def __init__(self, folder: Path, redis_port: int | None, feast: Feast | None) -> None:
        self.folder, self.feast, self.truth = folder, feast, stores.Truth.of(folder)
        self.calls: dict[str, Callable[[Sequence[int]], list[Any]]] = {"floor-sqlite": stores.floor_sqlite(folder)}
        self.fills: dict[str, float] = {}
        by_redis = stores.floor_redis(folder, redis_port) if redis_port else None
        if by_redis is not None:
            self.calls["floor-redis"] = by_redis
        for kind in ("sqlite", "redis"):
            store = stores.open_store(kind, folder, "online", redis_port)
            if store is not None:
                started = time.perf_counter()
                self.calls[f"tidemill-{kind}"] = _reading(stores.filled(folder, store))
                self.fills[f"tidemill-{kind}"] = time.perf_counter() - started
        self.feasts = [k for k in ("sqlite", "redis") if feast is not None and (k == "sqlite" or redis_port)]
        for kind in self.feasts:
            assert feast is not None
            feast.ask("fill", name=f"online-{kind}", online=feast_online(kind, folder, f"online-{kind}", redis_port))

    def check(self, tool: str, keys: Sequence[int]) -> None:
        """Raise unless a tool answers with the newest rows; ours also has to leave out what is older than the ttl."""
        for key, answer in zip(keys, self.calls[tool](keys), strict=True):
            expected: Any = self.truth.answer(key)
            if not kit.is_ours(tool):
                expected = tuple(rows.get(key) for rows in self.truth.values.values())
            if answer != expected:
                raise kit.WrongError(f"key {key}: {answer} instead of {expected}")


def _reading(reader: OnlineReader) -> Callable[[Sequence[int]], list[Any]]:
    return lambda keys: reader.read(VIEWS, [{"key": key} for key in keys], NOW_US)


def feast_online(kind: str, folder: Path, name: str, redis_port: int | None) -> dict[str, Any]:
    """The online store of a Feast repository."""
    if kind == "sqlite":
        return {"type": "sqlite", "path": str(folder / f"feast-{name}.db")}
    return {"type": "redis", "connection_string": f"127.0.0.1:{redis_port},db=1"}


def read(task: str, readers: Readers, size: int, sizes: Sizes, rounds: int) -> None:
    """Median and 99th percentile of single reads of `size` random keys."""
    tails: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    turn = iter(range(10_000))

    def note(tool: str, spent: list[float]) -> float:
        tails.setdefault(tool, []).append(sorted(spent)[int(len(spent) * 0.99)])
        return statistics.median(spent)

    def in_process(tool: str) -> float:
        call, batches = readers.calls[tool], stores.random_keys(READS, size, sizes.keys, next(turn))
        readers.check(tool, batches[0])
        for batch in batches[:20]:
            call(batch)
        return note(tool, [kit.seconds(lambda b=batch: call(b)) for batch in batches])  # type: ignore[misc]

    def by_feast(tool: str, kind: str) -> float:
        assert readers.feast is not None
        asked = {"size": size, "count": READS, "keys": sizes.keys, "seed": next(turn)}
        return note(tool, readers.feast.ask("read", name=f"online-{kind}", **asked))

    tools: dict[str, Callable[[], float]] = {name: (lambda name=name: in_process(name)) for name in readers.calls}  # type: ignore[misc]
    tools |= {f"feast-{kind}": (lambda kind=kind: by_feast(f"feast-{kind}", kind)) for kind in readers.feasts}  # type: ignore[misc]
    found = kit.interleave(tools, rounds, failures=failures)
    extra = {tool: {"p99_ms": statistics.median(list_) * 1e3} for tool, list_ in tails.items()}
    kit.report(task, found, "ms", scale=1e3, floor=like_floor(tools), extra=extra, failures=failures)


def like_floor(tools: Sequence[str] | dict[str, Any]) -> dict[str, str]:
    """The floor of each tool: that on the same kind of store."""
    return {tool: f"floor-{tool.rpartition('-')[2]}" for tool in tools}


def materialize(folder: Path, redis_port: int | None, feast: Feast | None, rounds: int) -> None:
    """Keys a second, from the rows in a file to all newest values durable in an empty online store."""
    rows = pq.read_table(folder / "wide")
    newest = rows.take(pa.array(newest_rows(rows["key"].to_numpy(), micros(rows["ts"]), micros(rows["ts"]))))
    keys, turn = newest.num_rows, iter(range(10_000))
    spent, failures = kit.Spent(), dict[str, str]()
    sample = newest.slice(0, 2_000).to_pylist()

    def ours(kind: str) -> Callable[[], float]:
        def measure() -> float:
            store = stores.open_store(kind, folder, f"wide-{next(turn)}", redis_port)
            assert store is not None
            definitions = Definitions(views={"wide": WIDE_VIEW})
            wall = spent.seconds(f"tidemill-{kind}", lambda: _load(ViewProcessor(store, definitions), folder))
            got = OnlineReader(store, definitions).read([WIDE_VIEW], [{"key": r["key"]} for r in sample], NOW_US)
            if got != [{f"wide__m{i}": r[f"m{i}"] for i in range(10)} for r in sample]:
                raise kit.WrongError("not the newest rows")
            return keys / wall

        return measure

    tools = {f"tidemill-{kind}": ours(kind) for kind in ("sqlite", "redis") if stores.open_store(kind, folder, "probe", redis_port)}
    tools["floor-sqlite"] = lambda: keys / spent.seconds("floor-sqlite", lambda: _floor_sqlite(folder, next(turn)))
    if redis_port and stores.redis_module():
        tools["floor-redis"] = lambda: keys / spent.seconds("floor-redis", lambda: _floor_redis(folder, redis_port))
    for kind in ("sqlite", "redis") if feast else ():
        if kind == "sqlite" or redis_port:
            tools[f"feast-{kind}"] = _feast_materialize(feast, kind, folder, redis_port, keys)
    found = kit.interleave(tools, rounds, failures=failures)
    extra = spent.facts(**{tool: {"rows": rows.num_rows, "keys": keys} for tool in tools if kit.is_ours(tool)})
    kit.report("materialize", found, "keys/s", better="higher", floor=like_floor(tools), extra=extra, failures=failures)


def _feast_materialize(feast: Any, kind: str, folder: Path, redis_port: int | None, keys: int) -> Callable[[], float]:
    online = feast_online(kind, folder, f"wide-{kind}", redis_port)
    return lambda: keys / feast.ask("materialize", name=f"wide-{kind}", online=online)


_NEWEST = "SELECT key, {columns} FROM '{path}' QUALIFY row_number() OVER (PARTITION BY key ORDER BY ts DESC, created DESC) = 1"


def _newest(folder: Path) -> list[tuple[Any, ...]]:
    query = _NEWEST.format(columns=", ".join(f"m{i}" for i in range(10)), path=folder / "wide" / "part-0000.parquet")
    return duckdb.connect(config={"threads": 2}).execute(query).fetchall()


def _floor_sqlite(folder: Path, turn: int) -> None:
    db = sqlite3.connect(folder / f"floor-wide-{turn}.db")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"CREATE TABLE wide (key INTEGER PRIMARY KEY, {', '.join(f'm{i} REAL' for i in range(10))})")
    db.executemany(f"INSERT INTO wide VALUES (?{', ?' * 10})", _newest(folder))
    db.commit()
    db.close()


def _floor_redis(folder: Path, port: int) -> None:
    db = stores.redis_module().Redis(port=port, db=3)
    pipe, names = db.pipeline(transaction=False), [f"m{i}" for i in range(10)]
    for i, row in enumerate(_newest(folder)):
        pipe.hset(f"m:{row[0]}", mapping=dict(zip(names, row[1:], strict=True)))
        if i % 1_000 == 999:
            pipe.execute()
    pipe.execute()


def _load(processor: ViewProcessor, folder: Path) -> None:
    """As `tidemill features materialize` does."""
    rows = scan(folder, "wide")
    materialize_views(processor, {"wide": Published(WIDE, rows, 1)}, at_us=NOW_US)


def stream_update(home: Path, folder: Path, sizes: Sizes, rounds: int) -> None:
    """Events a second into the six windowed features of their keys, a durable commit every `BATCH` events, in one process."""
    rows = pq.read_table(home / "events").slice(0, sizes.stream)
    known, turn = micros(rows["created"]), iter(range(10_000))
    now = int(known[-1])
    keys = np.unique(rows["key"].to_numpy())[:: max(1, sizes.keys // 2_000)]
    truth = expected(rows, known, keys, now)
    spent, failures = kit.Spent(), dict[str, str]()
    batches = [rows.slice(i, BATCH) for i in range(0, rows.num_rows, BATCH)]

    def ours() -> float:
        path, definitions = folder / f"stream-{next(turn)}.db", Definitions(views={STREAM_VIEW.name: STREAM_VIEW})
        processor = ViewProcessor(SqliteOnlineStore(path), definitions)
        wall = spent.seconds("tidemill-sqlite", lambda: _push(processor, batches))
        got = OnlineReader(SqliteOnlineStore(path), definitions).read([STREAM_VIEW], [{"key": int(k)} for k in keys], now)
        same(truth, [[answer[c] for answer in got] for c in STREAM_VIEW.columns])
        return rows.num_rows / wall

    def by_hand() -> float:
        floor = FloorTiles(folder / f"stream-floor-{next(turn)}.db")
        wall = spent.seconds("floor-sqlite", lambda: [floor.push(batch) for batch in batches])
        same(truth, floor.read(keys, now))
        return rows.num_rows / wall

    before = gc.get_threshold()
    collect_less()  # as `tidemill features follow` does
    found = kit.interleave({"tidemill-sqlite": ours, "floor-sqlite": by_hand}, rounds, failures=failures)
    gc.unfreeze()
    gc.set_threshold(*before)
    facts = {tool: {"durability": "WAL, synchronous=NORMAL, a commit every 50,000 events"} for tool in found}
    kit.report("stream_update", found, "events/s", better="higher", floor="floor-sqlite", extra=spent.facts(**facts), failures=failures)


def _push(processor: ViewProcessor, batches: Sequence[pa.Table]) -> None:
    for batch in batches:
        processor.advance(int(micros(batch["created"]).max()))  # first, as the follower does: what is known by then goes in by columns
        processor.push(EVENTS.name, batch)
        processor.commit()


def expected(rows: pa.Table, known: Int64, keys: Int64, now: int) -> list[list[float | None]]:
    """Sum, mean and count of both windows of each key, by the floor that looks at every row."""
    packed = (rows["key"].to_numpy(), micros(rows["ts"]), known, floors.ends(rows["event"].to_numpy(), known), rows["amount"].to_numpy())
    spans = list(dict.fromkeys((a.over_us, a.hop_us) for a in STREAM_VIEW.aggregates))
    made: list[list[float | None]] = []
    for n, mean in floors.windows(packed, keys, np.full(len(keys), now), spans):
        made.append([m * c if c else None for m, c in zip(mean.tolist(), n.tolist(), strict=True)])
        made.append([m if c else None for m, c in zip(mean.tolist(), n.tolist(), strict=True)])
        made.append(n.tolist())
    return made


def same(truth: list[list[float | None]], got: list[list[Any]]) -> None:
    for expected, found in zip(truth, got, strict=True):
        for one, other in zip(expected, found, strict=True):
            if (one is None) != (other is None) or (one is not None and abs(one - other) > 1e-9 * abs(one)):
                raise kit.WrongError(f"{other} instead of {one}")


class FloorTiles:
    """Sums of five minutes and of hours in two SQLite tables, added to a batch at a time; corrections take the old amount out.

    By hand and for exactly this: both windows' tails lie on their tables' hops, and no event is known before it happens.
    """

    HOPS = ((300 * SECOND, 3_600 * SECOND), (3_600 * SECOND, DAY * SECOND))

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            "CREATE TABLE event (id INTEGER PRIMARY KEY, key INTEGER, ts INTEGER, amount REAL)",
            "CREATE TABLE tile0 (key INTEGER, n INTEGER, rows INTEGER, total REAL, PRIMARY KEY (key, n)) WITHOUT ROWID",
            "CREATE TABLE tile1 (key INTEGER, n INTEGER, rows INTEGER, total REAL, PRIMARY KEY (key, n)) WITHOUT ROWID",
        ):
            self.db.execute(statement)
        self.seen: dict[int, tuple[int, int, float]] = {}

    def push(self, batch: pa.Table) -> None:
        """Take a batch and commit it."""
        numbers, keys, amounts = (batch[c].to_pylist() for c in ("event", "key", "amount"))
        events = list(zip(keys, micros(batch["ts"]).tolist(), amounts, strict=True))
        old = [self.seen[i] for i in numbers if i in self.seen]
        self.seen.update(zip(numbers, events, strict=True))
        changes = events + old
        key = np.array([c[0] for c in changes])
        event, amount = np.array([c[1] for c in changes]), np.array([c[2] for c in changes])
        sign = np.append(np.ones(len(events)), -np.ones(len(old)))
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)", [(i, *e) for i, e in zip(numbers, events, strict=True)])
        for i, (hop, _) in enumerate(self.HOPS):
            tile = (event - 1) // hop
            both, place = np.unique(key << 32 | tile, return_inverse=True)
            rows, total = np.bincount(place, sign), np.bincount(place, sign * amount)
            put = f"INSERT INTO tile{i} VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET rows = rows + excluded.rows, total = total + excluded.total"
            self.db.executemany(put, zip((both >> 32).tolist(), (both & 0xFFFFFFFF).tolist(), rows.tolist(), total.tolist(), strict=True))
        self.db.execute("COMMIT")

    def read(self, keys: Int64, now: int) -> list[list[Any]]:
        """Sum, mean and count of both windows."""
        made: list[list[Any]] = []
        for i, (hop, over) in enumerate(self.HOPS):
            query = f"SELECT coalesce(sum(rows), 0), sum(total) FROM tile{i} WHERE key = ? AND n >= ?"
            found = [self.db.execute(query, (int(k), (now - over) // hop)).fetchone() for k in keys]
            made += [[t if n else None for n, t in found], [t / n if n else None for n, t in found], [int(n) for n, _ in found]]
        return made

"""Our online stores on SQLite and on Redis, filled, and the hand-written floors on the same two."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data import DAY, NOW_US, SECOND, TTL_DAYS, VIEWS, WIDTHS, micros
from tidemill.core.definitions import Definitions
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.features.ports import OnlineStore

DEFINITIONS = Definitions(views={v.name: v for v in VIEWS})
PIECE = 100_000
"""Rows that go in at once."""


def redis_module() -> Any:
    """The client library of Redis, None without the extra."""
    try:
        import redis
    except ImportError:
        return None
    return redis


def open_store(kind: str, folder: Path, name: str, redis_port: int | None) -> OnlineStore | None:
    """An empty store of our own on SQLite or Redis; None where there is no adapter or no server."""
    if kind == "sqlite":
        return SqliteOnlineStore(folder / f"{name}.db")
    adapters = {e.name: e for e in entry_points(group="tidemill.online")}
    if kind not in adapters or redis_port is None:
        return None
    opened: OnlineStore = adapters[kind].load()(f"redis://127.0.0.1:{redis_port}/0", name)
    return opened


def pieces(table: Path) -> list[pa.Table]:
    """The rows of a table, a piece at a time."""
    rows = pq.read_table(table)
    return [rows.slice(i, PIECE) for i in range(0, rows.num_rows, PIECE)]


def fill(processor: ViewProcessor, tables: Mapping[str, Sequence[pa.Table]], *, at_us: int) -> None:
    """Push the rows of all tables, as of a time, and make them durable."""
    processor.advance(at_us)
    for name, rows in tables.items():
        for piece in rows:
            processor.push(name, piece)
    processor.commit()


def filled(folder: Path, store: OnlineStore) -> OnlineReader:
    """Put all rows of the three views in, as of a time at which all of them are known; give a reader as another process would have it."""
    fill(ViewProcessor(store, DEFINITIONS), {name: pieces(folder / name) for name in WIDTHS}, at_us=NOW_US)
    return OnlineReader(store, DEFINITIONS)


@dataclass(frozen=True)
class Truth:
    """By view: key to the newest row's values, and its event time."""

    values: Mapping[str, Mapping[int, tuple[float, ...]]]
    fresh: Mapping[str, Mapping[int, bool]]

    @classmethod
    def of(cls, folder: Path) -> Truth:
        """From the newest row of each key."""
        values, fresh = {}, {}
        for name, width in WIDTHS.items():
            rows = pq.read_table(folder / f"{name}_last")
            keys = rows["key"].to_pylist()
            columns = [rows[f"{name}{i}"].to_pylist() for i in range(width)]
            values[name] = dict(zip(keys, zip(*columns, strict=True), strict=True))
            young = NOW_US - micros(rows["ts"]) <= TTL_DAYS * DAY * SECOND
            fresh[name] = dict(zip(keys, young.tolist(), strict=True))
        return cls(values, fresh)

    def answer(self, key: int) -> dict[str, float | None]:
        """What our reader has to answer for a key: null once a view's newest row is too old."""
        made: dict[str, float | None] = {}
        for name, width in WIDTHS.items():
            row = self.values[name].get(key) if self.fresh[name].get(key) else None
            made |= {f"{name}__{name}{i}": None if row is None else row[i] for i in range(width)}
        return made


def floor_sqlite(folder: Path) -> Callable[[Sequence[int]], list[Any]]:
    """Finished values by integer key, a table for each view: what a store that never has to be right about time reads."""
    db = sqlite3.connect(folder / "floor.db")
    db.execute("PRAGMA journal_mode=WAL")
    for name, width in WIDTHS.items():
        rows = pq.read_table(folder / f"{name}_last")
        names = [f"{name}{i}" for i in range(width)]
        db.execute(f"CREATE TABLE {name} (key INTEGER PRIMARY KEY, {', '.join(f'{n} REAL' for n in names)})")
        db.executemany(f"INSERT INTO {name} VALUES (?{', ?' * width})", zip(*(rows[c].to_pylist() for c in ("key", *names)), strict=True))
    db.commit()

    def read(keys: Sequence[int]) -> list[Any]:
        marks = ",".join("?" * len(keys))
        found = [{row[0]: row[1:] for row in db.execute(f"SELECT * FROM {name} WHERE key IN ({marks})", keys)} for name in WIDTHS]
        return [tuple(rows.get(key) for rows in found) for key in keys]

    return read


def floor_redis(folder: Path, port: int) -> Callable[[Sequence[int]], list[Any]] | None:
    """One pipeline of HMGET, a hash for each view and key; None without the client library."""
    redis = redis_module()
    if redis is None:
        return None
    db = redis.Redis(port=port, db=2)
    names = {name: [f"{name}{i}" for i in range(width)] for name, width in WIDTHS.items()}
    for name, columns in names.items():
        rows = pq.read_table(folder / f"{name}_last").to_pydict()
        pipe = db.pipeline(transaction=False)
        for i, key in enumerate(rows["key"]):
            pipe.hset(f"{name}:{key}", mapping={c: rows[c][i] for c in columns})
            if i % 2_000 == 1_999:
                pipe.execute()
        pipe.execute()

    def read(keys: Sequence[int]) -> list[Any]:
        pipe = db.pipeline(transaction=False)
        for key in keys:
            for name, columns in names.items():
                pipe.hmget(f"{name}:{key}", columns)
        found = [None if row[0] is None else tuple(map(float, row)) for row in pipe.execute()]
        return [tuple(found[i : i + len(names)]) for i in range(0, len(found), len(names))]

    return read


def random_keys(count: int, size: int, keys: int, seed: int) -> list[list[int]]:
    """`count` requests of `size` keys."""
    return np.random.default_rng(seed).integers(0, keys, (count, size)).tolist()

"""Made-up data at size, the same for every tool: three views and their spine, events and theirs, rows to materialize.

As in a company's warehouse, 5 % of the rows become known late (up to two days) and 1 % are corrected one to three days later. The
first feature of each view is the row's number, so every answer names the row that was picked. Events lie in the order in which they
became known, as ingestion appends them; the views' rows lie in no order, as a backfill leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.aggregates import count, latest, mean, sum_
from tidemill.core.definitions import Entity, FeatureView, Table
from tidemill.versioning.ports import Scan

Int64 = npt.NDArray[np.int64]
SECOND, DAY = 1_000_000, 86_400
START_US = 1_767_225_600 * SECOND
"""The 1st of January 2026."""
DAYS = 90
"""Days that the rows span."""
NOW_US = START_US + 95 * DAY * SECOND
"""A time at which every row is known."""
TTL_DAYS = 30
WIDTHS = {"a": 4, "b": 3, "c": 3}
"""Features of each view."""
FEATURES = [f"{view}{i}" for view, width in WIDTHS.items() for i in range(width)]
STAMP = pa.timestamp("us", "UTC")
KEY = Entity("key")
_PIECE = 5_000_000


@dataclass(frozen=True)
class Sizes:
    """How much data there is."""

    rows: int = 1_000_000
    keys: int = 50_000
    spine: int = 100_000
    events: int = 5_000_000
    window_spine: int = 330_000
    large_events: int = 50_000_000
    materialize_keys: int = 100_000
    stream: int = 1_000_000
    follow: int = 250_000

    @classmethod
    def of(cls, *, quick: bool) -> Sizes:
        """A tenth of everything for a quick run."""
        return cls(100_000, 5_000, 10_000, 500_000, 33_000, 2_000_000, 10_000, 100_000, 50_000) if quick else cls()


TABLES = {name: Table(name, f"files:{name}", "ts", "created", key=("key", "ts")) for name in WIDTHS}
EVENTS = Table("events", "files:events", "ts", "created", key="event")
VIEWS = tuple(
    FeatureView(name, KEY, TABLES[name], [latest(*(f"{name}{i}" for i in range(width)), ttl=f"{TTL_DAYS}d")])
    for name, width in WIDTHS.items()
)
WIDE = Table("wide", "files:wide", "ts", "created", key=("key", "ts"))
WIDE_VIEW = FeatureView("wide", KEY, WIDE, [latest(*(f"m{i}" for i in range(10)), ttl="365d")])
STREAM_VIEW = FeatureView(
    "spend",
    KEY,
    EVENTS,
    [
        f
        for over, hop in (("1h", "5m"), ("24h", "1h"))
        for f in (sum_("amount", over=over, hop=hop), mean("amount", over=over, hop=hop), count(over=over, hop=hop))
    ],
)
"""Six windowed features."""
OVERS = ("3h", "1h", "2h", "6h", "12h", "24h", "2d", "3d", "5d", "7d")
"""Windows, each with a hop of five minutes; a task with n windows takes the first n."""


def window_view(windows: int = 1) -> FeatureView:
    """Mean and count of the events' amounts over the first `windows` of `OVERS`."""
    made = [f for over in OVERS[:windows] for f in (mean("amount", over=over, hop="5m"), count(over=over, hop="5m"))]
    return FeatureView("spend", KEY, EVENTS, made)


def scan(folder: Path, name: str) -> Scan:
    """Where the rows of a table are."""
    paths = tuple(str(p) for p in sorted((folder / name).glob("*.parquet")))
    return Scan(name, 1, pq.read_schema(paths[0]), paths)


def spread(random: np.random.Generator, n: int) -> tuple[Int64, Int64]:
    """Event times, and the times at which they become known: 5 % of them up to two days late."""
    event = START_US + random.integers(0, DAYS * DAY, n) * SECOND
    late = random.random(n) < 0.05
    known = event + np.where(late, random.integers(1, 2 * DAY, n), 0) * SECOND
    return event, known


def make_views(folder: Path, sizes: Sizes, seed: int = 7) -> None:
    """Write the three views and `spine.parquet`."""
    random, n = np.random.default_rng(seed), sizes.rows
    for name, width in WIDTHS.items():
        key = random.integers(0, sizes.keys, n)
        event, known = spread(random, n)
        fixed = n // 100
        key[-fixed:], event[-fixed:] = key[:fixed], event[:fixed]
        known[-fixed:] = known[:fixed] + random.integers(DAY, 3 * DAY, fixed) * SECOND
        columns = {"key": key, "ts": stamps(event), "created": stamps(known), f"{name}0": np.arange(n, dtype=np.float64)}
        columns |= {f"{name}{i}": random.normal(size=n) for i in range(1, width)}
        rows = pa.table(columns)
        _write(folder / name, rows)
        _write(folder / f"{name}_last", rows.take(pa.array(newest_rows(key, event, known))))
        if name == "a":
            asked = _asked(random, sizes, key, event)
    pq.write_table(asked, folder / "spine.parquet")


def newest_rows(key: Int64, event: Int64, known: Int64) -> Int64:
    """Of each key, the row with the greatest (event, known)."""
    order = np.lexsort((known, event, key))
    return order[np.append(key[order][1:] != key[order][:-1], True)]


def _asked(random: np.random.Generator, sizes: Sizes, keys: Int64, events: Int64) -> pa.Table:
    """The spine: random keys and times, some exactly at a row's event time and some exactly at its time to live."""
    n = sizes.spine
    key, at = random.integers(0, sizes.keys, n), START_US + random.integers(10 * DAY, DAYS * DAY, n) * SECOND
    edge = n // 20
    key[: 2 * edge], at[:edge] = keys[: 2 * edge], events[:edge]
    at[edge : 2 * edge] = events[edge : 2 * edge] + TTL_DAYS * DAY * SECOND
    return pa.table({"key": key, "at": stamps(at), "row": np.arange(n)})


def make_wide(folder: Path, sizes: Sizes, seed: int = 8) -> None:
    """Write the rows to materialize: ten features, no row late."""
    random, n = np.random.default_rng(seed), sizes.rows
    event = START_US + random.integers(0, DAYS * DAY, n) * SECOND
    columns = {"key": random.integers(0, sizes.materialize_keys, n), "ts": stamps(event), "created": stamps(event)}
    columns |= {f"m{i}": random.normal(size=n) for i in range(10)}
    _write(folder / "wide", pa.table(columns))


def make_events(folder: Path, events: int, keys: int, spine: int, seed: int = 9) -> Path:
    """Write events and the spine of their windows in a folder of their own; return it. Known times rise from file to file."""
    home = folder / f"events-{events}-{keys}-{spine}"
    if (home / "spine.parquet").exists():
        return home
    random, made = np.random.default_rng(seed), 0
    pieces = -(-events // _PIECE)
    for i in range(pieces):
        size = min(_PIECE, events - made)
        low, high = DAYS * DAY * i // pieces, DAYS * DAY * (i + 1) // pieces
        _write(home / "events", _events(random, made, size, keys, low, high), f"part-{i:04}")
        made += size
    n = spine
    asked = {"key": random.integers(0, keys, n), "at": stamps(START_US + random.integers(DAY, DAYS * DAY, n) * SECOND), "row": np.arange(n)}
    pq.write_table(pa.table(asked), home / "spine.parquet")
    return home


def _events(random: np.random.Generator, first: int, size: int, keys: int, low: int, high: int) -> pa.Table:
    """Rows that happen between two seconds, in the order of their known times; the last 1 % correct others of them."""
    key, event = random.integers(0, keys, size), START_US + random.integers(low, high, size) * SECOND
    known = event + np.where(random.random(size) < 0.05, random.integers(1, 2 * DAY, size), 0) * SECOND
    number, amount, fixed = first + np.arange(size), random.gamma(2.0, 50.0, size), size // 100
    if fixed:
        number[-fixed:], key[-fixed:], event[-fixed:] = number[:fixed], key[:fixed], event[:fixed]
        known[-fixed:] = known[:fixed] + random.integers(DAY, 3 * DAY, fixed) * SECOND
    order = np.argsort(known, kind="stable")
    columns = {"event": number, "key": key, "ts": stamps(event), "created": stamps(known), "amount": amount}
    return pa.table(columns).take(pa.array(order))


def stamps(micros: Int64) -> pa.Array:
    """Microseconds as timestamps."""
    return pa.array(micros).cast(STAMP)


def micros(column: pa.ChunkedArray | pa.Array) -> Int64:
    """Timestamps as microseconds."""
    return np.asarray(column.cast(STAMP).cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _write(folder: Path, rows: pa.Table, name: str = "part-0000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"{name}.parquet", compression="zstd", compression_level=1)

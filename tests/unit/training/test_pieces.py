"""Rows piece by piece are the rows that a training set has."""

import itertools
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Label, Service, Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import HOUR_US
from tidemill.monitoring.embedded import SqliteLabelStore
from tidemill.training import FrameSource, SpinePieces, pieces
from tidemill.versioning.embedded import IcebergTableStore
from tidemill.versioning.ports import Scan

UTC = pa.timestamp("us", "UTC")
FLIGHTS = Table("flights", "files:none", event_time="at_time", known_time="known", key="flight")
SERVICE = Service("late", ["x"], Label("late", FLIGHTS, "true", key="flight"), FLIGHTS, key="flight", lead="1h")


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_derive(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = IcebergTableStore(tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db", ReplayClock(0))
    schema = pa.schema([("flight", pa.string()), ("at_time", UTC), ("known", UTC), ("x", pa.float64())])
    tables.create("flights", schema)
    for turn in range(4):  # revisions, late ones, and keys that come again
        at = rng.integers(2, 90, 60) * HOUR_US
        known = at - rng.integers(-3, 4, 60) * HOUR_US
        rows = pa.table(
            [[f"f{i}" for i in rng.integers(0, 90, 60)], pa.array(at).cast(UTC), pa.array(known).cast(UTC), rng.normal(size=60)],
            schema=schema,
        )
        tables.append("flights", rows, batch=str(turn), branch="main")
    source = FrameSource(
        Definitions(tables={"flights": FLIGHTS}, services={"late": SERVICE}),
        lambda _s, rows, _x: rows,
        tables,
        SqliteLabelStore(str(tmp_path / "l.db")),
    )
    until, since = 70 * HOUR_US, 5 * HOUR_US
    want, _ = source.derive(SERVICE, from_us=since, until_us=until, labelled=False)
    found = SpinePieces(SERVICE, tables.scan("flights"), from_us=since, until_us=until, rows=7)
    got = list(found)
    assert [t.num_rows for t in got[:-1]] == [7] * (len(got) - 1)
    assert len(found) == len(got)
    together = pa.concat_tables(got).select(["id", "at", "x"]).sort_by([("at", "ascending"), ("id", "ascending")])
    assert together.equals(want.select(["id", "at", "x"]).sort_by([("at", "ascending"), ("id", "ascending")]))
    assert found.total == want.num_rows
    with pytest.raises(InvalidError, match="no row at such times"):
        SpinePieces(SERVICE, tables.scan("flights"), from_us=None, until_us=0, rows=7)


def test_pieces_keep_rows_and_order() -> None:
    numbers = [pa.table({"a": pa.array(range(i, i + n), pa.int64())}) for i, n in ((0, 5), (5, 0), (5, 13), (18, 1))]
    for size in (1, 3, 5, 100):
        got = list(pieces(iter(numbers), size))
        assert list(itertools.chain.from_iterable(t["a"].to_pylist() for t in got)) == list(range(19))
        assert {t.num_rows for t in got[:-1]} <= {size}


@pytest.mark.parametrize("files", [1, 32])
def test_memory_is_that_of_some_pieces_however_slow_the_reader(tmp_path: Path, files: int) -> None:
    groups, n, paths = 32, 5_000, []
    for file in range(files):
        tables = []
        for turn in range(file * groups // files, (file + 1) * groups // files):
            at = pa.array(np.arange(n) + turn * n + HOUR_US).cast(UTC)
            keys = pa.array([f"{turn}-{i}" for i in range(n)])
            known = pa.array(np.zeros(n, dtype=np.int64)).cast(UTC)
            wide = pa.array([f"{turn * n + i:0500d}" for i in range(n)])  # each its own, so that no dictionary makes them small
            tables.append(pa.table({"flight": keys, "at_time": at, "known": known, "wide": wide}))
        paths.append(str(tmp_path / f"{file}.parquet"))
        pq.write_table(pa.concat_tables(tables), paths[-1], row_group_size=n)
    scan = Scan("flights", 1, pq.read_schema(paths[0]), tuple(paths))
    before = pa.default_memory_pool().bytes_allocated()
    most = 0
    service = Service("late", ["wide"], Label("late", FLIGHTS, "true", key="flight"), FLIGHTS, key="flight")
    for piece in SpinePieces(service, scan, from_us=None, until_us=10 * HOUR_US, rows=n):
        assert piece.num_rows == n
        time.sleep(0.01)
        most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert most < 20e6  # of 80 MB

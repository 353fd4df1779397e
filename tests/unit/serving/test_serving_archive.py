"""The archive of predictions: exactly once whoever is killed when, read by any engine, forgotten when it is time."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import LostError
from tidemill.core.instants import DAY_US
from tidemill.serving.archive import archive, as_predictions, as_table
from tidemill.serving.archived import ArchivedLog
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.embedded.journal import Journal
from tidemill.serving.keeping import table_of
from tidemill.serving.ports import Prediction, Visit
from tidemill.testing.serving import prediction
from tidemill.versioning.embedded import IcebergTableStore


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """Passes calls on until it is killed: at its n-th change, before it or behind it."""

    def __init__(self, inner: Any, life: list[int], *, before: bool) -> None:
        self._inner, self._life, self._before = inner, life, before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("claim", "create", "append", "thin"):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            self._life[0] -= 1
            if self._life[0] == 0 and self._before:
                raise Killed
            result = found(*args, **kwargs)
            if self._life[0] == 0:
                raise Killed
            return result

        return called


ROUTE = (Visit("", "0f3a"), Visit("near", "3", "near"), Visit("far", "", "", "failed"))


def lake(folder: Path) -> IcebergTableStore:
    return IcebergTableStore(folder / "lake", f"sqlite:///{folder}/lake/catalog.db", ReplayClock(1))


def both(log: SqlitePredictionLog, folder: Path) -> ArchivedLog:
    return ArchivedLog(log, lambda: lake(folder))


def rows(count: int, start: int = 0) -> list[Prediction]:
    return [prediction(i) for i in range(start, start + count)] + [
        prediction(i, role="shadow", version=2) for i in range(start, start + count)
    ]


def stored(folder: Path) -> list[tuple[str, int]]:
    scan = lake(folder).scan(table_of("svc"))
    query = f"SELECT prediction, version FROM read_parquet({list(scan.paths)!r}, union_by_name = true) ORDER BY 1, 2"
    return duckdb.execute(query).fetchall()


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_step_and_started_again_every_row_is_there_once(tmp_path: Path, before: bool) -> None:
    wanted = sorted((p.id, p.version) for p in rows(30))
    kills = 0
    for step in range(1, 40):
        folder = tmp_path / str(step)
        log = SqlitePredictionLog(folder / "p.db")
        log.append(rows(30))
        life = [step]
        try:
            archive(Mortal(log, life, before=before), Mortal(lake(folder), life, before=before), "svc", until_us=2**62, piece=25)
        except Killed:
            kills += 1
        log.append([prediction(7, score=9.0)])  # somebody asks again; the first record stands
        again = SqlitePredictionLog(folder / "p.db")
        assert list(both(again, folder).read("svc")) == list(read_whole(folder))
        archive(again, lake(folder), "svc", until_us=2**62, piece=25)
        assert stored(folder) == wanted
        assert sorted(both(again, folder).read("svc"), key=key) == sorted(rows(30), key=key)
        if life[0] > 0:
            break
    assert kills == 13, "three batches of a claim, a create, an append and a thinning, and a last claim that finds nothing"


def key(p: Prediction) -> tuple[str, int]:
    return (p.id, p.version)


def read_whole(folder: Path) -> list[Prediction]:
    return sorted(rows(30), key=lambda p: (p.at_us, p.id, p.version))


SCRIPT = """
import os, sys
from pathlib import Path
from tests.unit.serving.test_serving_archive import lake, SqlitePredictionLog, archive
folder = Path(sys.argv[1])
print("ready", flush=True)
archive(SqlitePredictionLog(folder / "p.db"), lake(folder), "svc", until_us=2**62, piece=40, batches=1000)
"""


def test_kill_9_at_random_loses_and_doubles_nothing(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db")
    log.append(rows(1200))
    for wait in (0.05, 0.11, 0.17, 0.23, 0.4):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    assert sorted(ArchivedLog(log, lambda: lake(tmp_path)).read("svc"), key=key) == sorted(rows(1200), key=key)
    archive(log, lake(tmp_path), "svc", until_us=2**62, batches=1000)
    assert stored(tmp_path) == sorted((p.id, p.version) for p in rows(1200))


def test_only_what_is_old_enough_is_archived_and_windows_span_both(tmp_path: Path) -> None:
    log, tables = SqlitePredictionLog(tmp_path / "p.db"), lake(tmp_path)
    log.append(rows(20))
    assert archive(log, tables, "svc", until_us=12_000_000) == 24
    whole = ArchivedLog(log, lambda: tables)
    assert [p.at_us for p in whole.read("svc", from_us=10_000_000, until_us=14_000_000, roles=["live"])] == [
        i * 1_000_000 for i in range(10, 14)
    ]
    assert whole.find("id-000003") == [prediction(3), prediction(3, role="shadow", version=2)]
    assert len(stored(tmp_path)) == 24


def test_inputs_of_every_kind_come_back_equal(tmp_path: Path) -> None:
    at = datetime(2013, 1, 1, tzinfo=UTC)
    given = [
        prediction(1, columns=("a", "b"), values=(float("inf"), None), request={"when": at, "nested": {"x": [1, None]}}),
        prediction(2, columns=("b", "a"), values=("text", -0.0), request={}),
        prediction(3, columns=("a", "b"), values=("now a text", 2.5), request={"n": 1.0, "m": 1}),
    ]
    assert list(as_predictions("svc", lifted(as_table(given)))) == given
    log, tables = SqlitePredictionLog(tmp_path / "p.db"), lake(tmp_path)
    log.append(given)
    archive(log, tables, "svc", until_us=2**62, piece=1)
    found = list(ArchivedLog(log, lambda: tables).read("svc"))
    assert found == given
    assert [type(v) for v in found[2].request.values()] == [float, int]
    names = duckdb.execute(
        f"DESCRIBE SELECT * FROM read_parquet({list(tables.scan(table_of('svc')).paths)!r}, union_by_name = true)"
    ).fetchall()
    assert {"in__a", "in__a__text", "in__b", "in__b__text", "request", "at"} <= {name[0] for name in names}


def lifted(table: Any) -> Any:
    import pyarrow as pa

    return table.append_column("at_us", table.column("at").cast(pa.int64()))


def test_a_table_that_has_lost_rows_says_so(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db")
    log.append(rows(3))
    archive(log, lake(tmp_path), "svc", until_us=2**62)
    with pytest.raises(LostError, match="restore the table"):
        list(ArchivedLog(log, lambda: lake(tmp_path / "elsewhere")).read("svc"))


def test_what_is_forgotten_leaves_log_and_table(tmp_path: Path) -> None:
    log, tables = SqlitePredictionLog(tmp_path / "p.db"), lake(tmp_path)
    log.append([prediction(i, at_us=i * DAY_US) for i in range(10)])
    archive(log, tables, "svc", until_us=9 * DAY_US, piece=4)
    before = 6 * DAY_US
    assert log.drop("svc", before_us=before) == 6
    tables.maintain(table_of("svc"), now_us=2, keep_us=0, forget=("at", before))
    assert [name for name, _ in stored(tmp_path)] == [f"id-{i:06d}" for i in range(6, 9)]
    assert [p.id for p in ArchivedLog(log, lambda: tables).read("svc")] == [f"id-{i:06d}" for i in range(6, 10)]
    tables.maintain(table_of("svc"), now_us=3, keep_us=0, forget=("at", before))
    snapshots = tables.snapshots(table_of("svc"))
    tables.maintain(table_of("svc"), now_us=4, keep_us=0, forget=("at", before))
    assert len(list((tmp_path / "lake").rglob("*.parquet"))) == 1, "the rows are nowhere any more"
    assert tables.snapshots(table_of("svc")) == snapshots, "nothing is left to forget, so nothing is done"


def test_a_file_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    import sqlite3

    log = SqlitePredictionLog(tmp_path / "p.db")
    log.append(rows(2))
    log.close()
    with sqlite3.connect(tmp_path / "p.db") as db:
        db.executescript("DROP INDEX prediction_whole; DROP INDEX prediction_claimed; ALTER TABLE prediction DROP COLUMN batch;")
        db.executescript("ALTER TABLE prediction DROP COLUMN route; DROP TABLE route;")
    again = SqlitePredictionLog(tmp_path / "p.db")
    again.append([prediction(9, route=ROUTE)])
    assert len(found := again.claim("svc", until_us=2**62, limit=10)[1]) == 5
    assert [p.route for p in found] == [()] * 4 + [ROUTE]


def test_a_journal_and_a_table_of_an_earlier_version_have_no_routes(tmp_path: Path) -> None:
    old = msgspec.msgpack.encode([list(msgspec.structs.astuple(p))[:-1] for p in rows(2)])
    journal = Journal(tmp_path / "p.db-arrived")
    journal.append([old])
    journal.close()
    log, tables = SqlitePredictionLog(tmp_path / "p.db", ahead=True), lake(tmp_path)
    assert list(log.read("svc")) == sorted(rows(2), key=lambda p: (p.at_us, p.id, p.role == "shadow"))
    batch, found = log.claim("svc", until_us=2**62, limit=100)
    made = as_table(found).drop_columns("route")
    tables.create(table_of("svc"), made.schema)
    tables.append(table_of("svc"), made, batch=batch, branch="main")
    log.thin(batch)
    log.append([prediction(7, route=ROUTE)])
    read = ArchivedLog(log, lambda: tables)
    assert {p.route for p in read.read("svc", until_us=7_000_000)} == {()}
    assert archive(log, tables, "svc", until_us=2**62) == 1
    assert [p.route for p in read.read("svc")] == [()] * len(found) + [ROUTE], "the table has the column from now on; older files have none"

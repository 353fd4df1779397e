"""Several processes, threads and engines on the same tables."""

import multiprocessing
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import CorruptError
from tidemill.versioning.embedded import IcebergTableStore

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


def _open(home: Path) -> IcebergTableStore:
    return IcebergTableStore(home / "lake", f"sqlite:///{home}/catalog.db", ReplayClock(0))


def _work(home: Path, worker: int, times: int) -> None:
    store = _open(home)
    store.create("t", SCHEMA)
    for turn in range(times):
        identity = worker * 100 + turn
        store.append("t", pa.table({"id": [identity], "name": ["x"]}), batch=f"b{identity}", branch=f"audit-{identity}")
        store.publish("t", f"audit-{identity}")
        if turn == 3:
            store.maintain("t", now_us=0, keep_us=0)


def _ids(store: IcebergTableStore) -> list[int]:
    scan = store.scan("t")
    return sorted(_read(scan.paths))


def _read(paths: Sequence[str]) -> list[int]:
    """What another engine finds in the files."""
    with duckdb.connect() as db:
        return [row[0] for row in db.execute("SELECT id FROM read_parquet(?)", [list(paths)]).fetchall()]


def test_processes_that_publish_to_one_table_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, worker, 6)) for worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert _ids(_open(tmp_path)) == sorted(worker * 100 + turn for worker in range(2) for turn in range(6))


def test_a_reader_that_commits_overtake_reads_what_came_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of low priority may rest between asking the catalog for a file and reading it, for more commits than files are kept."""
    writer, reader = _open(tmp_path), _open(tmp_path)
    writer.create("t", SCHEMA)
    load, rests = SqlCatalog._convert_orm_to_iceberg, iter([range(12), range(12, 24)])

    def rest(self: SqlCatalog, row: Any) -> Any:
        if self is reader._catalog:
            for identity in next(rests, ()):
                writer.append("t", pa.table({"id": [identity]}), batch=f"b{identity}", branch="main")
        return load(self, row)

    monkeypatch.setattr(SqlCatalog, "_convert_orm_to_iceberg", rest)
    assert _ids(reader) == list(range(24))


def test_a_table_whose_metadata_is_lost_says_which_file_to_restore(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.create("t", SCHEMA)
    store.append("t", pa.table({"id": [1]}), batch="b", branch="main")
    lost = max((tmp_path / "lake" / "t" / "metadata").glob("*.metadata.json"))
    lost.rename(tmp_path / "kept")
    other = _open(tmp_path)
    with pytest.raises(CorruptError, match=re.escape(str(lost))):
        other.scan("t")
    with pytest.raises(CorruptError):
        other.create("t", SCHEMA)
    (tmp_path / "kept").rename(lost)
    assert _ids(other) == [1]


def test_threads_that_share_a_store(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.create("t", SCHEMA)

    def add(identity: int) -> None:
        store.append("t", pa.table({"id": [identity]}), batch=f"b{identity}", branch=f"a{identity}")
        store.publish("t", f"a{identity}")
        store.scan("t")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(16)))
    assert _ids(store) == list(range(16))


def test_pyiceberg_reads_and_writes_the_same_table(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.create("t", SCHEMA)
    for identity in range(6):
        store.append("t", pa.table({"id": [identity], "name": [f"n{identity}"]}), batch=f"b{identity}", branch="main")
    store.append("t", pa.table({"id": [9]}), batch="b9", branch="audit-9")
    other = SqlCatalog("tidemill", uri=f"sqlite:///{tmp_path}/catalog.db").load_table(("lake", "t"))
    assert other.scan().to_arrow().sort_by("id").column("id").to_pylist() == list(range(6))
    assert other.scan(row_filter="name = 'n3'").to_arrow().num_rows == 1
    other.append(pa.table({"id": pa.array([7], pa.int64()), "name": ["theirs"]}))
    assert store.publish("t", "audit-9").rows == 8
    store.maintain("t", now_us=1, keep_us=0)
    assert _ids(store) == [*range(6), 7, 9]
    other.refresh()
    assert other.scan().to_arrow().num_rows == 8


def test_rows_come_in_the_order_in_which_they_were_ingested(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.create("t", SCHEMA)
    for identity in range(12):
        store.append("t", pa.table({"id": [identity]}), batch=f"b{identity}", branch="main")
        if identity in (4, 8):
            store.maintain("t", now_us=identity, keep_us=10**9)
    assert _read(store.scan("t").paths) == list(range(12))

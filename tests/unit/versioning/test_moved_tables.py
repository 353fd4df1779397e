"""A lake that was moved or copied is refused, then told its new place, whoever is killed meanwhile."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import ConflictError
from tidemill.core.instants import DAY_US
from tidemill.testing.versioning import SCHEMA, read, rows
from tidemill.versioning.embedded import IcebergTableStore, moved


def open_(home: Path) -> IcebergTableStore:
    return IcebergTableStore(home / "lake", f"sqlite:///{home}/catalog.db", ReplayClock(9 * DAY_US))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two tables with branches, a tag, compacted files and remembered batches."""
    home = tmp_path / "first"
    home.mkdir()
    clock = ReplayClock(0)
    store = IcebergTableStore(home / "lake", f"sqlite:///{home}/catalog.db", clock)
    for table in ("t", "u"):
        store.create(table, SCHEMA)
        for i in range(9):
            clock.advance_to(clock.now_us() + DAY_US // 10)
            store.append(table, rows(i), batch=f"b{i}", branch=f"audit-{i}")
            if i != 6:
                store.publish(table, f"audit-{i}")
            if i == 2:
                store.tag(table, store.snapshots(table)[0].id, "kept")
            if i == 5:
                store.maintain(table, now_us=clock.now_us() + 1, keep_us=0)
    return home


def state(home: Path) -> dict[str, Any]:
    store = open_(home)
    out: dict[str, Any] = {}
    for table in ("t", "u"):
        snapshots = store.snapshots(table)
        out[table] = [
            read(store, table),
            read(store, table, "audit-6"),
            read(store, table, "kept"),
            [read(store, table, s.id) for s in snapshots],
        ]
        out[f"{table} snapshots"] = snapshots
        assert all(path.startswith(str(home)) for s in snapshots for path in store.scan(table, s.id).paths)
    return out


def test_a_moved_lake_is_refused_then_the_same_at_its_new_place(home: Path, tmp_path: Path) -> None:
    before = state(home)
    there = home.rename(tmp_path / "second ü")
    attempts: list[Callable[[IcebergTableStore], object]] = [
        lambda s: s.scan("t"),
        lambda s: s.create("t", SCHEMA),
        lambda s: s.append("t", rows(1), batch="x", branch="main"),
        lambda s: s.snapshots(),
    ]
    for attempt in attempts:
        with pytest.raises(ConflictError, match=r"first/lake.*doctor --fix"):
            attempt(open_(there))
    assert open_(there).strangers() == dict.fromkeys("tu", f"file://{tmp_path}/first/lake")
    assert open_(there).relocate() == ["t", "u"]
    assert (open_(there).relocate(), open_(there).strangers()) == ([], {})
    assert state(there) == before
    assert not [p for p in there.rglob("*") if p.suffix in (".part", ".new")]
    assert not [p for p in (there / "lake").rglob("*.json") if f"{tmp_path}/first/" in p.read_text()]

    store = open_(there)
    store.append("t", rows(100), batch="new", branch="main")
    store.publish("t", "audit-6")
    assert store.append("t", rows(0), batch="b0", branch="main").rows == 10, "a batch that was taken is still known"
    store.maintain("t", now_us=10 * DAY_US, keep_us=0)
    assert sorted(read(store, "t")) == [*range(9), 100]
    assert not (tmp_path / "first").exists()


def test_other_engines_read_it_there(home: Path, tmp_path: Path) -> None:
    there = home.rename(tmp_path / "second")
    open_(there).relocate()
    plain = SqlCatalog("tidemill", uri=f"sqlite:///{there}/catalog.db", warehouse=f"file://{there}/lake")
    found = plain.load_table(("lake", "t"))
    assert sorted(found.scan().to_arrow().column("id").to_pylist()) == [0, 1, 2, 3, 4, 5, 7, 8]
    for manifest in found.inspect.all_manifests().to_pylist():
        assert manifest["length"] == Path(manifest["path"].removeprefix("file://")).stat().st_size
    plain.close()


def test_a_copy_leaves_the_original_alone(home: Path, tmp_path: Path) -> None:
    before = state(home)
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    with pytest.raises(ConflictError, match="doctor --fix"):
        open_(copy).append("t", rows(50), batch="x", branch="main")
    open_(copy).relocate()
    open_(copy).append("t", rows(50), batch="x", branch="main")
    assert len(read(open_(copy), "t")) == len(before["t"][0]) + 1
    assert state(home) == before


def test_half_a_move_is_refused(home: Path, tmp_path: Path) -> None:
    there = home.rename(tmp_path / "second")
    shutil.rmtree(there / "lake" / "u")
    with pytest.raises(ConflictError, match="'u' has no file"):
        open_(there).relocate()
    assert read(open_(there), "t") == [0, 1, 2, 3, 4, 5, 7, 8]


class KilledError(BaseException):
    """As kill -9: nobody catches it."""


@pytest.mark.slow
def test_killed_at_any_file_and_started_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = state(home), moved._replace
    kept = home.rename(tmp_path / "kept")
    files = len([p for p in (kept / "lake").glob("*/metadata/*") if p.suffix in (".avro", ".json")])
    assert files > 30
    for fatal in (1, 2, files // 3, files // 2 + 1, files):
        there = tmp_path / f"killed-{fatal}"
        shutil.copytree(kept, there)
        left = [fatal]

        def counting(path: Path, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                path.with_suffix(".new").write_bytes(data[: len(data) // 2])
                raise KilledError
            replace(path, data)

        monkeypatch.setattr(moved, "_replace", counting)
        with pytest.raises(KilledError):
            open_(there).relocate()
        monkeypatch.setattr(moved, "_replace", replace)
        open_(there).relocate()
        assert state(there) == before

"""A ledger's file that is taken from under a running process: nothing is made in its place, nothing is lost, nothing has to be restarted."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.core.errors import LedgerGoneError
from tidemill.core.opened import OpenedFile
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit


def say(ledger: Ledger, kind: str) -> None:
    with ledger.write() as db:
        emit(db, kind, "x", {}, at_us=1)


def said(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.events_after(0)]


def cut(path: Path, size: int) -> Callable[[], object]:
    """Cut a file off where it stands; calling what this returns puts the bytes back."""
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)

    def restore() -> None:
        with path.open("r+b") as file:
            file.write(whole)

    return restore


@pytest.mark.parametrize("size", [0, 50, 4096, 20_000])
def test_a_file_that_is_cut_off_and_restored(tmp_path: Path, size: int) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    for n in range(50):
        say(ledger, f"before-{n}")
    with ledger.engine.connect() as db:
        db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(said(ledger)) == 50
    restore = cut(tmp_path / "ledger.db", size)
    for use in (said, lambda one: say(one, "during")):
        with pytest.raises(LedgerGoneError, match=r"ledger\.db is (cut off|no database).*put it back"):
            use(ledger)
    restore()
    say(ledger, "after")
    assert said(ledger) == [*(f"before-{n}" for n in range(50)), "after"]
    with ledger.read() as db:
        assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_another_file_in_its_place_is_opened_anew_by_all(tmp_path: Path) -> None:
    one, two = (Ledger(f"sqlite:///{tmp_path}/ledger.db") for _ in range(2))
    say(one, "first")
    one.log_metrics("run", [("loss", 0, 1.0)], at_us=1)
    with sqlite3.connect(tmp_path / "ledger.db") as db, sqlite3.connect(tmp_path / "copy") as copy:
        db.backup(copy)
    say(two, "not in the copy")
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink()
    (tmp_path / "copy").replace(tmp_path / "ledger.db")
    for ledger in (one, two, one):
        say(ledger, f"by {'one' if ledger is one else 'two'} {len(said(ledger))}")
        ledger.log_metrics("run", [("loss", 0, 2.0)], at_us=2)
    assert said(one) == said(two) == said(Ledger(one.url)) == ["first", "by one 1", "by two 2", "by one 3"]


def test_one_that_was_made_smaller_by_its_owner_is_whole(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with ledger.write() as db:
        db.execute(schema.state.insert(), [{"name": f"n{i}", "value": "x" * 5000, "at_us": 1} for i in range(200)])
    with ledger.write() as db:
        db.execute(sa.delete(schema.state))
    assert not said(ledger)
    before = (tmp_path / "ledger.db").stat().st_size
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as vacuum:
        vacuum.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        vacuum.execute("VACUUM")
        vacuum.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    say(ledger, "on")
    assert said(ledger) == ["on"]
    assert (tmp_path / "ledger.db").stat().st_size < max(before, 1_000_000)


def test_a_new_one_is_begun_only_when_that_is_meant(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    say(ledger, "a")
    ledger.close()
    away = (tmp_path / "ledger.db").rename(tmp_path / "away")
    code = f"from tidemill.ledger.store import Ledger; Ledger({url!r})"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LedgerGoneError" in started.stderr
    assert "remove" in started.stderr
    assert not (tmp_path / "ledger.db").exists()
    shutil.copy(away, tmp_path / "kept")
    away.rename(tmp_path / "ledger.db")
    assert said(Ledger(url)) == ["a"]
    for path in tmp_path.glob("ledger.db*"):
        path.unlink()
    assert said(Ledger(url)) == []


def test_a_queue_file_that_is_cut_off_ends_no_process(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    say(ledger, "a")
    (tmp_path / "ledger.db-queue").write_bytes(b"")
    say(ledger, "b")
    assert said(ledger) == ["a", "b"]


def test_a_process_that_opens_a_file_beside_others_keeps_their_locks(tmp_path: Path) -> None:
    """Closing any descriptor of a file gives back all locks of the process on it, so looking at a file's head must close none."""
    path = tmp_path / "some.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE t (x)")
    db.execute("BEGIN EXCLUSIVE")
    assert OpenedFile(path).problem() == ""
    code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr

"""Turns and group commits of the writers' queue."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tidemill.ledger import queue as queues
from tidemill.ledger.store import Ledger, emit

HOLDER = """
import sys, time
from tidemill.ledger.store import Ledger, emit
ledger = Ledger(sys.argv[1])
with ledger.write() as db:
    emit(db, "lost", "x", {}, at_us=1)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def test_a_killed_writer_gives_its_turn_up_and_leaves_nothing(url: str) -> None:
    ledger = Ledger(url)
    with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        waiting = threading.Thread(target=_emit, args=(ledger, "kept"))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        holder.send_signal(signal.SIGKILL)
        waiting.join(10)
        assert not waiting.is_alive()
    assert [event.kind for event in ledger.events_after(0)] == ["kept"]


def _emit(ledger: Ledger, kind: str) -> None:
    with ledger.write() as db:
        emit(db, kind, "x", {}, at_us=1)


def test_one_sync_serves_all_who_committed_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    syncs: list[int] = []

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        time.sleep(0.05)
        os.fsync(descriptor)

    monkeypatch.setattr(queues, "sync_data", slow)
    threads = [threading.Thread(target=_emit, args=(ledger, f"kind-{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ledger.events_after(0)) == 12
    assert 1 <= len(syncs) <= 6


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sees descriptors through /proc")
def test_every_durable_write_is_synced_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    _emit(ledger, "first")
    synced: list[str] = []
    monkeypatch.setattr(queues, "sync_data", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    _emit(ledger, "second")
    assert synced == [f"{tmp_path.resolve()}/ledger.db-wal"]
    ledger.log_metrics("run", [("loss", 0, 1.0)], at_us=1)
    with ledger.write(durable=False) as db:
        emit(db, "third", "x", {}, at_us=1)
    assert len(synced) == 1


def test_without_file_locks_each_commit_syncs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "fcntl", None)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with ledger.write() as db:
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        emit(db, "kind", "x", {}, at_us=1)
    ledger.log_metrics("run", [("loss", 0, 1.0)], at_us=1)
    assert len(ledger.events_after(0)) == 1


def test_a_forked_child_writes_on_its_own(url: str) -> None:
    ledger = Ledger(url)
    _emit(ledger, "parent")
    ledger.log_metrics("run", [("loss", 0, 1.0)], at_us=1)
    child = os.fork()
    if child == 0:
        try:
            _emit(ledger, "child")
            ledger.log_metrics("run", [("loss", 1, 0.5)], at_us=1)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    _emit(ledger, "parent again")
    assert [event.kind for event in ledger.events_after(0)] == ["parent", "child", "parent again"]

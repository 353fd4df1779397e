"""The journal in front of the prediction log: what readers take over, and what a killed writer leaves."""

import os
import shutil
import sqlite3
import threading
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until as wait

from tidemill.core.errors import UnavailableError
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.embedded import journal as writing
from tidemill.serving.embedded.journal import Ahead, Journal, claimed, frames, segments
from tidemill.testing.kills import Report, until_killed
from tidemill.testing.serving import prediction


def bodies(path: Path, start: int = 0) -> list[bytes]:
    return [body for body, _ in frames(path, start)]


@pytest.mark.parametrize("durable", [writing._DURABLE, 0], ids=["one call", "where the system has no such call"])
def test_half_a_frame_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: int) -> None:
    monkeypatch.setattr(writing, "_DURABLE", durable)
    journal = Journal(tmp_path)
    journal.append([b"one", b"two"])
    journal.append([b"three"])
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    assert bodies(path) == [b"one", b"two", b"three"]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert bodies(path) == [b"one", b"two", b"three"][: (cut >= 11) + (cut >= 22)]
    path.write_bytes(whole[:-1] + b"?")
    assert bodies(path) == [b"one", b"two"]
    assert bodies(path, 11) == [b"two"]


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=20)
    for i in range(5):
        journal.append([b"%d" % i * 9])
    found = segments(tmp_path)
    assert len(found) == 3
    assert [body[:1] for path in found for body in bodies(path)] == [b"0", b"1", b"2", b"3", b"4"]
    for path, free in zip(found, (True, True, False), strict=True):
        with claimed(path) as mine:
            assert mine is free


until = partial(wait, "a thread beside", seconds=30)


def busy_until_moved(journal: Journal, folder: Path) -> int:
    """Append numbers until the journal has moved on to a segment filled with zeros; how many, with one more after it."""
    numbers = count()

    def moved() -> bool:
        journal.append([b"%06d" % next(numbers)])
        return any(path.read_bytes()[:1] not in (b"", b"\0") and path.stat().st_size > 1 << 20 for path in segments(folder))

    until(moved)
    journal.append([b"%06d" % next(numbers)])
    return next(numbers)


def all_bodies(folder: Path) -> list[bytes]:
    return [body for path in segments(folder) for body in bodies(path)]


def test_a_busy_writer_moves_on_to_zeros_and_keeps_its_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, busy_bytes=1)
    n = busy_until_moved(journal, tmp_path)
    assert all_bodies(tmp_path) == [b"%06d" % i for i in range(n)]
    started = [path for path in segments(tmp_path) if bodies(path)]
    for path, free in zip(started, (True, False), strict=True):
        with claimed(path) as mine:
            assert mine is free
    journal.close()
    until(lambda: segments(tmp_path) == started)  # what was being filled has gone
    assert all_bodies(tmp_path) == [b"%06d" % i for i in range(n)]
    assert sum(path.stat().st_size for path in started) == n * 14, "zeros were left behind"


def half(error: OSError) -> Any:
    """Writes that stop in the middle."""

    def write(file: int, frames: bytes, at: int, *, sync: bool) -> None:
        assert sync
        os.pwrite(file, frames[: len(frames) // 2], at)
        raise error

    return write


def test_half_a_frame_among_zeros_is_none_and_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, busy_bytes=1)
    n = busy_until_moved(journal, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(writing, "_write", half(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            journal.append([b"x" * 50])
    journal.append([b"%06d" % n])
    assert all_bodies(tmp_path) == [b"%06d" % i for i in range(n + 1)]
    journal.close()


def test_a_disk_without_room_for_zeros_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def full(_ahead: Ahead, _path: Path) -> None:
        tried.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ahead, "_fill", full)
    journal = Journal(tmp_path, segment_bytes=200, busy_bytes=1)
    for i in range(5):
        journal.append([b"%06d" % i])
    assert tried.wait(30)
    for i in range(5, 30):
        journal.append([b"%06d" % i])
    assert all_bodies(tmp_path) == [b"%06d" % i for i in range(30)]
    journal.close()


def test_a_folder_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db", ahead=True)
    log.append([prediction(1)])
    shutil.rmtree(tmp_path / "p.db-arrived")
    log.append([prediction(2)])
    assert [p.id for p in log.read("svc")] == ["id-000002"], "what is acknowledged is where readers look"


def test_what_could_not_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db", ahead=True)
    log.append([prediction(1)])

    with monkeypatch.context() as broken:
        broken.setattr(writing, "_write", half(OSError(28, "No space left on device")))
        with pytest.raises(UnavailableError, match="No space left"):
            log.append([prediction(2)])
    assert [p.id for p in log.read("svc")] == ["id-000001"]
    log.append([prediction(3)])
    assert [p.id for p in log.read("svc")] == ["id-000001", "id-000003"]


def test_a_segment_goes_when_its_writer_has_gone_and_all_is_taken(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db", ahead=True)
    log.append([prediction(1)])
    reader = SqlitePredictionLog(tmp_path / "p.db")
    assert len(list(reader.read("svc"))) == 1
    assert len(segments(tmp_path / "p.db-arrived")) == 1
    log.append([prediction(2)])
    log.close()
    assert [p.id for p in reader.read("svc")] == ["id-000001", "id-000002"]
    assert segments(tmp_path / "p.db-arrived") == []
    with sqlite3.connect(tmp_path / "p.db") as db:
        assert db.execute("SELECT count(*) FROM taken").fetchone() == (0,)


def test_readers_at_once_take_each_prediction_once(tmp_path: Path) -> None:
    """What is taken is deleted at once, as retention would: whoever took it twice would bring it back."""
    log = SqlitePredictionLog(tmp_path / "p.db", ahead=True)
    readers = [SqlitePredictionLog(tmp_path / "p.db") for _ in range(3)]
    seen: list[str] = []
    lock, done = threading.Lock(), threading.Event()

    def take(reader: SqlitePredictionLog) -> None:
        db = sqlite3.connect(tmp_path / "p.db", timeout=60, isolation_level=None)
        while True:
            last = done.is_set()
            reader.find("none")
            with lock:
                seen.extend(row[0] for row in db.execute("DELETE FROM prediction RETURNING id"))
            if last:
                break
        db.close()

    threads = [threading.Thread(target=take, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for i in range(300):
        log.append([prediction(2 * i), prediction(2 * i + 1)])
        if i % 50 == 49:
            log.close()
            log = SqlitePredictionLog(tmp_path / "p.db", ahead=True)
    log.close()
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [f"id-{i:06d}" for i in range(600)]


def append_and_take(log: SqlitePredictionLog, report: Report) -> None:
    for i in count():
        log.append([prediction(3 * i), prediction(3 * i + 1), prediction(3 * i + 2)])
        if i % 7 == 6:
            list(log.scores("svc"))
        report(i)


def test_kill_9_while_it_writes_and_takes_over(tmp_path: Path) -> None:
    last = until_killed(append_and_take, partial(SqlitePredictionLog, tmp_path / "p.db", ahead=True))[-1]
    ids = [p.id for p in SqlitePredictionLog(tmp_path / "p.db").read("svc")]
    assert ids == [f"id-{i:06d}" for i in range(len(ids))]
    assert len(ids) in (3 * (last + 1), 3 * (last + 2))


def append_numbers(journal: Journal, report: Report) -> None:
    for i in count():
        journal.append([b"%06d" % i])
        if journal._zeroed:
            report(i)


def test_kill_9_while_it_writes_over_zeros(tmp_path: Path) -> None:
    last = until_killed(append_numbers, partial(Journal, tmp_path, busy_bytes=1))[-1]
    found = all_bodies(tmp_path)
    assert found == [b"%06d" % i for i in range(len(found))]
    assert len(found) in (last + 1, last + 2)
    for path in segments(tmp_path):
        with claimed(path) as mine:
            assert mine

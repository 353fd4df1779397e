"""The prediction log and its writer when the disk does not play along."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.support.waiting import until as wait

from tidemill.core.errors import UnavailableError
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.ports import Prediction
from tidemill.serving.writer import Group, LogWriter
from tidemill.testing.serving import prediction

until = partial(wait, "it to come to pass", seconds=5)


def test_every_commit_is_synced(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db")
    assert log._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_full_disk_is_unavailable_and_what_was_there_stays(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db")
    log.append([prediction(1)])
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UnavailableError, match="disk is full"):
        log.append([prediction(i) for i in range(2, 2000)])
    assert [p.id for p in log.read("svc")] == ["id-000001"]
    log._writer.execute("PRAGMA max_page_count = 1000000")
    log.append([prediction(i) for i in range(2, 2000)])
    assert len(list(log.read("svc"))) == 1999


def test_a_file_that_is_no_log_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "p.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(UnavailableError, match="cannot be opened"):
        SqlitePredictionLog(tmp_path / "p.db")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        SqlitePredictionLog(tmp_path / "p.db" / "below")


def test_appends_that_meet_share_a_commit(tmp_path: Path) -> None:
    log = SqlitePredictionLog(tmp_path / "p.db")
    commits: list[str] = []
    log._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with log._commit:
        threads = [threading.Thread(target=log.append, args=([prediction(i)],)) for i in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: len(log._waiting) == 20)
    for thread in threads:
        thread.join()
    assert len(commits) == 1
    assert len(list(log.read("svc"))) == 20


class Log:
    """Keeps, or refuses."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.writes: list[int] = []
        self.error: Exception | None = None
        self.may = threading.Event()
        self.may.set()

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        self.may.wait()
        if self.error:
            raise self.error
        self.writes.append(len(predictions))
        self.kept += [p.id for p in predictions]


def waited_for(i: int) -> Group:
    """A group of one prediction that somebody waits for."""
    return Group([prediction(i)], lambda _logged: None)


def _writer(log: Log, told: list[bool], **more: float) -> LogWriter:
    answered = LogWriter(log, lambda groups, ok: told.extend([ok] * len(groups)), probe_s=0.01, **more)  # type: ignore[arg-type]
    answered.start()
    return answered


def test_whatever_the_log_raises_the_writer_goes_on(tmp_path: Path) -> None:
    log, told = Log(), []  # type: ignore[var-annotated]
    log.error = RuntimeError("odd")
    writer = _writer(log, told)
    writer.submit(waited_for(1))
    until(lambda: bool(told))
    assert (writer.degraded, writer.reason, writer.backlog) == (True, "odd", 1)
    log.error = None
    writer.close()
    assert (writer.degraded, log.kept, told) == (False, ["id-000001"], [False])


def test_the_backlog_is_bounded_and_losses_are_counted() -> None:
    log, told = Log(), []  # type: ignore[var-annotated]
    log.error = UnavailableError("full")
    writer = _writer(log, told, backlog_rows=10)
    for i in range(15):
        writer.submit(waited_for(i))
    until(lambda: len(told) == 15)
    assert (writer.backlog, writer.lost) == (10, 5)
    log.error = None
    writer.close()
    assert log.kept == [f"id-{i:06d}" for i in range(5, 15)]
    assert told == [False] * 15


def test_closing_writes_what_was_handed_over() -> None:
    log, told = Log(), []  # type: ignore[var-annotated]
    writer = _writer(log, told)
    for i in range(100):
        writer.submit(waited_for(i))
    writer.close()
    assert (len(log.kept), told) == (100, [True] * 100)


def test_what_nobody_waits_for_goes_along_in_small_parts_and_is_all_there() -> None:
    log, told = Log(), []  # type: ignore[var-annotated]
    log.may.clear()
    writer = _writer(log, told)
    writer.submit(waited_for(0))
    until(lambda: writer._queue.empty())  # it is being written, as long as the log takes
    writer.submit(Group([prediction(i) for i in range(1_000, 1_500)]))
    for i in range(1, 4):
        writer.submit(waited_for(i))
    log.may.set()
    until(lambda: len(log.kept) == 504)
    assert log.kept[:4] == [f"id-{i:06d}" for i in range(4)], "whoever waits is first"
    assert log.kept[4:] == [f"id-{i:06d}" for i in range(1_000, 1_500)]
    assert log.writes[0] == 1
    assert max(log.writes) <= 64 + 3
    assert told == [True] * 4
    writer.close()


def test_more_of_it_goes_along_when_a_lot_waits_so_that_it_does_not_grow() -> None:
    log = Log()
    log.may.clear()
    writer = _writer(log, [])
    writer.submit(waited_for(0))
    until(lambda: writer._queue.empty())
    writer.submit(Group([prediction(i) for i in range(32 * 200)]))
    log.may.set()
    until(lambda: len(log.kept) == 32 * 200 + 1)
    assert log.writes[1] == 200
    writer.close()


def test_what_nobody_waits_for_is_kept_while_the_log_is_degraded_and_written_at_the_end() -> None:
    log, told = Log(), []  # type: ignore[var-annotated]
    log.error = UnavailableError("full")
    writer = _writer(log, told)
    writer.submit(Group([prediction(i) for i in range(300)]))
    until(lambda: writer.backlog == 300)
    log.error = None
    until(lambda: not writer.degraded)
    writer.submit(Group([prediction(i) for i in range(300, 900)]))
    writer.close()
    assert log.kept == [f"id-{i:06d}" for i in range(900)]
    assert told == []

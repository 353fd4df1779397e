"""What every `Tracker` must keep."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from tidemill.core.errors import InvalidError
from tidemill.testing.contract import Contract, keeps
from tidemill.tracking.ports import Tracker

Begin = Callable[[str, int], None]


class TrackerContract(Contract):
    """Supply `tracker` (it can be pickled, or made again by `reopen`), and `begin(run_id, started_us)`, which makes a run to list."""

    @keeps("history")
    def test_each_step_keeps_the_last_value(self, tracker: Tracker) -> None:
        tracker.log("r", [("loss", 0, 0.5), ("loss", 2, 0.3)], at_us=1)
        tracker.log("r", [("loss", 1, 0.4), ("loss", 0, 0.6)], at_us=2)
        tracker.log("r", [], at_us=3)
        assert tracker.history("r", "loss") == [(0, 0.6, 2), (1, 0.4, 2), (2, 0.3, 1)]
        assert tracker.history("r", "other") == []
        assert tracker.history("s", "loss") == []

    @keeps("history")
    def test_odd_values_are_kept(self, tracker: Tracker) -> None:
        values = [math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0]
        tracker.log("r", [("x", i, value) for i, value in enumerate(values)] + [("x", 9, math.nan)], at_us=1)
        found = [value for _step, value, _at in tracker.history("r", "x")]
        assert found[:-1] == values
        assert math.isnan(found[-1])

    @keeps("kept")
    def test_a_logged_value_survives_kill_9(self, reopen: Callable[[], Tracker]) -> None:
        reopen()
        _killed(_log_and_die, reopen)
        assert reopen().history("r", "loss") == [(i, i / 10, 1) for i in range(20)]

    @keeps("concurrent")
    def test_dozens_of_processes_log_at_once(self, reopen: Callable[[], Tracker]) -> None:
        reopen()
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_log_many, args=(reopen, n)) for n in range(12)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 12
        tracker = reopen()
        for n in range(12):
            assert len(tracker.history(f"run-{n}", "loss")) == 30

    @keeps("selective")
    def test_search_lists_newest_first_with_what_was_named(self, tracker: Tracker, begin: Begin) -> None:
        for i in range(5):
            begin(f"r{i}", i)
            tracker.log(f"r{i}", [("loss", 0, 9.0), ("loss", 1, 1.0 - i / 10), ("other", 0, 1.0)], at_us=i)
            tracker.log_params(f"r{i}", {"rate": str(i), "kind": "x"})
        rows = tracker.search(metrics=["loss"], params=["rate"], limit=2, offset=1)
        assert [(row.id, dict(row.metrics), dict(row.params)) for row in rows] == [
            ("r3", {"loss": 0.7}, {"rate": "3"}),
            ("r2", {"loss": 0.8}, {"rate": "2"}),
        ]
        assert tracker.search(limit=1)[0].metrics == {}

    def test_search_orders_by_a_metric_and_puts_runs_without_it_last(self, tracker: Tracker, begin: Begin) -> None:
        for i, value in enumerate([0.3, None, 0.1, math.nan, 0.2]):
            begin(f"r{i}", i)
            if value is not None:
                tracker.log(f"r{i}", [("loss", 0, value)], at_us=i)
        assert [row.id for row in tracker.search(order_by="loss")][:3] == ["r2", "r4", "r0"]
        assert [row.id for row in tracker.search(order_by="loss", descending=True)][:3] == ["r0", "r4", "r2"]
        assert {row.id for row in tracker.search(order_by="loss")[3:]} == {"r1", "r3"}

    def test_a_second_parameter_replaces_the_first(self, tracker: Tracker, begin: Begin) -> None:
        begin("r", 1)
        tracker.log_params("r", {"rate": "1"})
        tracker.log_params("r", {"rate": "2"})
        assert tracker.search(params=["rate"])[0].params == {"rate": "2"}

    def test_a_negative_page_is_refused(self, tracker: Tracker) -> None:
        with pytest.raises(InvalidError):
            tracker.search(limit=-1)


def _log_and_die(reopen: Callable[[], Tracker], done: Connection) -> None:
    tracker = reopen()
    for i in range(20):
        tracker.log("r", [("loss", i, i / 10)], at_us=1)
    done.send(True)
    os.kill(os.getpid(), signal.SIGKILL)


def _log_many(reopen: Callable[[], Tracker], n: int) -> None:
    tracker = reopen()
    for i in range(30):
        tracker.log(f"run-{n}", [("loss", i, float(i))], at_us=i)


def _killed(target: Callable[[Callable[[], Tracker], Connection], None], reopen: Callable[[], Tracker]) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=target, args=(reopen, there))
    worker.start()
    worker.join(60)
    assert here.poll(0)
    assert worker.exitcode == -signal.SIGKILL

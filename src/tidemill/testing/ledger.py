"""What a `Ledger` promises, on whatever database it is kept in."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import count

import pytest
import sqlalchemy as sa

from tidemill.core.errors import InvalidError, LedgerGoneError, NotFoundError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, insert_once, upsert
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed


class LedgerContract(Contract):
    """Supply `url`: where a new, empty ledger can be; and `away`: what takes it away for a while."""

    @pytest.fixture
    def url(self) -> str:
        """A place for a new ledger."""
        raise NotFoundError("supply a url fixture")

    @pytest.fixture
    def away(self) -> Callable[[str], AbstractContextManager[None]]:
        """What takes the ledger of a URL away for the time of a block, as a person or a crash would."""
        raise NotFoundError("supply an away fixture")

    @pytest.fixture
    def ledger(self, url: str) -> Ledger:
        """A new ledger."""
        return Ledger(url)

    def test_serial_writes_see_one_another(self, ledger: Ledger) -> None:
        def count(_: int) -> None:
            with ledger.write(durable=False) as db:
                _increment(db)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count, range(200)))
        assert _value(ledger) == 200

    def test_serial_reads_never_wait_and_see_whole_transactions(self, ledger: Ledger) -> None:
        with ledger.write() as db:
            _increment(db)
            assert _value_elsewhere(ledger) == 0
        assert _value(ledger) == 1

    def test_serial_reads_keep_one_view(self, ledger: Ledger) -> None:
        with ledger.read() as reading:
            before = reading.execute(sa.select(sa.func.count()).select_from(schema.event)).scalar()
            with ledger.write() as db:
                emit(db, "run.started", "run-1", {}, at_us=1)
            assert reading.execute(sa.select(sa.func.count()).select_from(schema.event)).scalar() == before == 0

    def test_whole(self, ledger: Ledger) -> None:
        def fail() -> None:
            with ledger.write() as db:
                _increment(db)
                raise InvalidError("no")

        with pytest.raises(InvalidError):
            fail()
        assert _value(ledger) == 0
        with ledger.write() as db:
            _increment(db)
        assert _value(ledger) == 1

    @keeps("serial")
    def test_a_second_write_in_a_thread_is_refused(self, ledger: Ledger) -> None:
        with ledger.write(), pytest.raises(InvalidError, match="connection"):
            ledger.log_metrics("run-1", [("loss", 0, 1.0)], at_us=1)
        ledger.log_metrics("run-1", [("loss", 0, 1.0)], at_us=1)

    def test_durable_in_a_new_ledger(self, url: str, ledger: Ledger) -> None:
        with ledger.write() as db:
            _increment(db)
        assert _value(Ledger(url)) == 1
        ledger.close()
        assert _value(Ledger(url)) == 1

    @keeps("whole")
    def test_durable_after_kill_9(self, url: str, ledger: Ledger) -> None:
        last = until_killed(_write_for_ever, partial(Ledger, url))[-1]
        found, events = _value(ledger), ledger.events_after(0, 100_000)
        assert found in (last, last + 1)
        assert [(e.body["turn"], e.body["part"]) for e in events] == [(turn, part) for turn in range(1, found + 1) for part in range(_MANY)]
        with ledger.write() as db:
            _increment(db)
        assert _value(ledger) == found + 1

    @keeps("patient", "serial")
    def test_patient_and_whole_over_processes(self, url: str, ledger: Ledger) -> None:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_work, args=(url, number, 12)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert _value(ledger) == 4 * 12
        assert len(ledger.events_after(0, 1000)) == 4 * 12

    @pytest.mark.slow
    @keeps("patient", "serial")
    def test_32_processes_lose_nothing_and_see_no_lock(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_work, args=(url, number, 15)) for number in range(32)]
        for worker in workers:  # the ledger is new: they also race to make its tables
            worker.start()
        for worker in workers:
            worker.join(300)
        assert [worker.exitcode for worker in workers] == [0] * 32
        ledger = Ledger(url)
        assert _value(ledger) == 32 * 15
        assert len(_metrics(ledger, schema.metric)) == 32 * 15

    def test_portable(self, ledger: Ledger) -> None:
        with ledger.write() as db:
            _increment(db)
        assert _value(pickle.loads(pickle.dumps(ledger))) == 1

    def test_portable_over_a_fork(self, ledger: Ledger) -> None:
        with ledger.write() as db:
            _increment(db)
        child = os.fork()
        if child == 0:
            try:
                with ledger.write() as db:
                    _increment(db)
                ledger.log_metrics("run", [("loss", 1, 0.5)], at_us=1)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with ledger.write() as db:
            _increment(db)
        assert _value(ledger) == 3
        assert _metrics(ledger, schema.metric) == [("loss", 1, 0.5, 1)]

    def test_metrics_keep_the_last_value_of_a_step(self, ledger: Ledger) -> None:
        ledger.log_metrics("run-1", [("loss", 0, 1.0), ("loss", 1, 0.5), ("auc", 1, 0.7)], at_us=5)
        ledger.log_metrics("run-1", [("loss", 1, 0.25), ("loss", 0, 2.0)], at_us=6)
        assert _metrics(ledger, schema.metric) == [("auc", 1, 0.7, 5), ("loss", 0, 2.0, 6), ("loss", 1, 0.25, 6)]
        assert _metrics(ledger, schema.metric_last) == [("auc", 1, 0.7, 5), ("loss", 1, 0.25, 6)]
        ledger.log_metrics("run-1", [("loss", 0, 9.0)], at_us=7)
        assert _metrics(ledger, schema.metric_last) == [("auc", 1, 0.7, 5), ("loss", 1, 0.25, 6)]
        ledger.log_metrics("run-1", [], at_us=8)

    def test_metrics_keep_what_is_not_finite(self, ledger: Ledger) -> None:
        ledger.log_metrics("run-1", [("a", 0, math.inf), ("b", 0, -math.inf), ("c", 0, math.nan)], at_us=1)
        assert [value for _, _, value, _ in _metrics(ledger, schema.metric)] == [math.inf, -math.inf, None]

    @keeps("gone")
    def test_one_that_is_gone_says_so_and_is_as_before_once_it_is_back(
        self, ledger: Ledger, url: str, away: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        uses = (
            lambda: _value(ledger),
            lambda: _add(ledger),
            lambda: ledger.log_metrics("run", [("loss", 0, 1.0)], at_us=1),
            lambda: Ledger(url),
        )
        for turn in range(2):
            _add(ledger)
            with away(url):
                for use in uses:
                    with pytest.raises(LedgerGoneError):
                        use()
            assert _value(ledger) == _value(Ledger(url)) == turn + 1
        ledger.log_metrics("run", [("loss", 0, 2.0)], at_us=2)
        assert _metrics(ledger, schema.metric) == [("loss", 0, 2.0, 2)]

    def test_events_come_in_order_and_once(self, ledger: Ledger) -> None:
        for number in range(5):
            for _ in range(2):
                with ledger.write(durable=False) as db:
                    emit(db, "kind", f"subject-{number}", {"n": number, "bad": math.nan}, at_us=number)
        events = ledger.events_after(0)
        assert [event.subject for event in events] == [f"subject-{number}" for number in range(5)]
        assert events[3].body == {"n": 3, "bad": None}
        assert [event.seq for event in ledger.events_after(events[2].seq, 1)] == [events[3].seq]
        assert ledger.events_after(events[-1].seq) == []

    def test_insert_once_and_upsert(self, ledger: Ledger) -> None:
        row = {"name": "x", "value": "1", "at_us": 1}
        with ledger.write() as db:
            assert insert_once(db, schema.state, row)
            assert not insert_once(db, schema.state, {**row, "value": "2"})
            upsert(db, schema.state, {**row, "value": "3"})
            upsert(db, schema.state, {"name": "y", "value": "4", "at_us": 1})
        with ledger.read() as db:
            values = db.execute(sa.select(schema.state.c.name, schema.state.c.value).order_by(schema.state.c.name)).all()
        assert [tuple(value) for value in values] == [("x", "3"), ("y", "4")]


def _increment(db: sa.Connection) -> None:
    """Read, then write: two writers at once would lose one."""
    value = int(db.execute(sa.select(schema.state.c.value).where(schema.state.c.name == "counter")).scalar() or "0")
    upsert(db, schema.state, {"name": "counter", "value": str(value + 1), "at_us": 0})


def _add(ledger: Ledger) -> None:
    with ledger.write() as db:
        _increment(db)


_MANY = 60


def _write_for_ever(ledger: Ledger, report: Report) -> None:
    for turn in count(1):
        with ledger.write(durable=turn % 2 == 0) as db:
            _increment(db)
            for part in range(_MANY):
                emit(db, "turn", "x", {"turn": turn, "part": part}, at_us=turn)
        report(turn)


def _value(ledger: Ledger) -> int:
    with ledger.read() as db:
        return int(db.execute(sa.select(schema.state.c.value).where(schema.state.c.name == "counter")).scalar() or "0")


def _value_elsewhere(ledger: Ledger) -> int:
    """What another thread reads meanwhile."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(_value(ledger)))
    thread.start()
    thread.join(10)
    return found[0]


def _metrics(ledger: Ledger, table: sa.Table) -> list[tuple[str, int, float | None, int]]:
    columns = table.c
    with ledger.read() as db:
        rows = db.execute(sa.select(columns.name, columns.step, columns.value, columns.at_us).order_by(columns.name, columns.step))
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def _work(url: str, number: int, times: int) -> None:
    ledger = Ledger(url)
    for turn in range(times):
        with ledger.write(durable=turn % 2 == 0) as db:
            _increment(db)
            emit(db, "turn", f"worker-{number}", {"turn": turn}, at_us=turn)
        ledger.log_metrics(f"run-{number}", [("loss", turn, 1.0 / (turn + 1))], at_us=turn)

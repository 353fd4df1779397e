"""Trainings run in the class that the setting says, end on a machine that is full, and are not starved unnoticed."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import lightgbm
import pytest
from tests.support.busy import fill_the_machine
from tests.unit.training.conftest import make_rows

from tidemill.core.priority import LEAST, LONG_S, NICE, Priority, Ran
from tidemill.training import Share, deterministic, encode, lightgbm_model
from tidemill.training.embedded import ProcessTrainer
from tidemill.training.ports import TrainingSet

linux = pytest.mark.skipif(sys.platform != "linux", reason="scheduling classes are Linux's")


@pytest.fixture
def full_machine() -> Iterator[None]:
    """Nothing is left over while the test runs."""
    spinning = fill_the_machine()
    yield
    for process in spinning:
        process.kill()
        process.wait()


def standing() -> tuple[int, int]:
    """Class and niceness of the process that asks."""
    return os.sched_getscheduler(0), os.nice(0)


def trees(rows: TrainingSet) -> bytes:
    """A small training."""
    x, y = encode(rows)
    return lightgbm_model(lightgbm.train({"objective": "binary", "verbose": -1, **deterministic()}, lightgbm.Dataset(x, y), 5), rows).native


@linux
@pytest.mark.parametrize(
    ("priority", "policy", "nicer"), [("idle", "SCHED_IDLE", NICE), ("low", "SCHED_OTHER", NICE), ("normal", "SCHED_OTHER", 0)]
)
def test_a_worker_has_the_class_of_the_setting(priority: Priority, policy: str, nicer: int) -> None:
    expected = getattr(os, policy), min(19, os.nice(0) + nicer)
    assert ProcessTrainer(priority).run(standing, ()) == expected


def child_of_a_worker() -> int:
    """The class that a process has which a training starts."""
    said = subprocess.run([sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], check=True, capture_output=True)
    return int(said.stdout)


@linux
def test_what_a_training_starts_is_as_it_is() -> None:
    assert ProcessTrainer("idle").run(child_of_a_worker, ()) == os.SCHED_IDLE


@pytest.mark.slow
@pytest.mark.parametrize("priority", ["idle", "low"])
def test_a_training_on_a_full_machine_ends(priority: Priority, full_machine: None) -> None:
    assert ProcessTrainer(priority).run(trees, (make_rows(),)) == trees(make_rows())


class Kernel:
    """Counts as the test says, and who was lifted and put back."""

    def __init__(self, *, may: bool = True) -> None:
        self.may, self.had, self.did = may, Ran(), list[str]()

    def share(self) -> Share:
        return Share("idle", ran=lambda: self.had, lift=self.lift, back=lambda: self.did.append("back"))

    def lift(self) -> None:
        if not self.may:
            raise PermissionError("not permitted")
        self.did.append("lifted")

    def pass_(self, share: Share, seconds: float, *, run: float, waited: float) -> None:
        """Let time go by, in ten looks."""
        for _ in range(10):
            self.had = Ran(self.had.run + run / 10, self.had.waited + waited / 10)
            share.look(seconds / 10)


def test_a_training_that_hardly_runs_for_long_is_lifted_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    share = kernel.share()
    kernel.pass_(share, LONG_S * 0.9, run=1, waited=LONG_S * 0.9)
    assert kernel.did == []
    kernel.pass_(share, LONG_S, run=1, waited=LONG_S)
    assert kernel.did == ["lifted"]
    assert [record.message.partition(":")[0] for record in caplog.records] == ["training.lifted"]
    kernel.pass_(share, 3 * LONG_S, run=1, waited=3 * LONG_S)
    assert kernel.did == ["lifted"]
    share.ended()
    share.ended()
    assert kernel.did == ["lifted", "back"]
    kernel.pass_(share, LONG_S, run=1, waited=LONG_S)
    assert kernel.did == ["lifted", "back", "lifted"], "the next training is looked after as well"


def test_a_training_that_waits_for_its_data_or_gets_its_share_is_left_alone() -> None:
    kernel = Kernel()
    share = kernel.share()
    kernel.pass_(share, 3 * LONG_S, run=0.1, waited=LONG_S)  # most of the time it did not ask for a processor
    kernel.pass_(share, 3 * LONG_S, run=3 * LONG_S * 2 * LEAST, waited=3 * LONG_S)
    kernel.pass_(share, LONG_S * 0.9, run=0, waited=LONG_S)
    kernel.pass_(share, LONG_S, run=LONG_S, waited=0)  # a pause of what kept it from running
    kernel.pass_(share, LONG_S * 0.9, run=0, waited=LONG_S)
    assert kernel.did == []


def test_who_may_not_be_lifted_says_what_to_do_once_a_training(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel(may=False)
    share = kernel.share()
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        kernel.pass_(share, LONG_S, run=1, waited=LONG_S)
    assert [record.message for record in caplog.records if "training.priority=low" in record.message] == [caplog.records[0].message]
    share.ended()
    kernel.pass_(share, LONG_S, run=1, waited=LONG_S)
    assert len(caplog.records) == 2
    assert kernel.did == []


LIFT = """
import json, os, threading
from pathlib import Path
from tidemill.core.priority import LONG_S, Ran, Share
counts = iter([Ran(), Ran(1.0, LONG_S)])
share = Share("idle", ran=lambda: next(counts))
share.begin()
threading.Thread(target=threading.Event().wait, daemon=True).start()
def classes():
    return sorted({os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()})
seen = [classes()]
share.look(LONG_S)
seen.append([share.lifted, classes()])
share.ended()
print(json.dumps([*seen, classes()]))
"""


@linux
def test_all_threads_are_lifted_and_put_back_where_that_is_allowed() -> None:
    done = subprocess.run([sys.executable, "-c", LIFT], check=True, capture_output=True, text=True)
    before, (lifted, during), after = json.loads(done.stdout)
    assert before == after == [os.SCHED_IDLE]
    assert during == [os.SCHED_OTHER if lifted else os.SCHED_IDLE]
    assert lifted == ("training.starved" not in done.stderr)


@linux
def test_the_kernels_counts_are_read() -> None:
    share = Share("normal")
    ran = share._ran()
    assert ran is None or (ran.run > 0 and ran.waited >= 0)

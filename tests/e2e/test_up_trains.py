"""`tidemill up` trains in a process of its own: rollouts move meanwhile, and whoever is killed is taken up again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.e2e.test_up import Up, children, eventually, start
from tests.support.busy import fill_the_machine

from tidemill.core import ids
from tidemill.core.clock import WallClock
from tidemill.core.errors import ConflictError
from tidemill.core.instants import DAY_US, parse_instant
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.platform.root import Platform
from tidemill.retraining import decisions, manual, transitions
from tidemill.retraining.ports import Decision

pytestmark = pytest.mark.slow
SERVICE = "kitchen"
HELD = '''

def held():
    """A training that takes as long as the test says."""
    import pathlib, time
    pathlib.Path({holding!r}).write_text("")
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.05)


@tm.step
def fit('''
HASTY = "triggers:\n  - kind: schedule\n    every: 1d\ntick: 1s\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a live model of 2024, so that its schedule is due at once; its fit waits for a file, its candidates are given up after seconds."""
    folder = tmp_path / SERVICE
    days = ["--from", "2024-01-22", "--to", "2024-01-24"]
    for command in (["init", str(folder)], ["replay", "--project", str(folder), *days, "--policy", "never"]):
        subprocess.run([sys.executable, "-m", "tidemill.cli", *command], check=True, capture_output=True, timeout=900)
    since = (WallClock().now_us() - parse_instant("2024-01-20")) // DAY_US
    code = (folder / "definitions.py").read_text().replace('last="5d"', f'last="{since}d"').replace('bake="1d"', 'bake="1d", give_up="3s"')
    code = code.replace("\n\n@tm.step\ndef fit(", HELD.format(go=str(folder / "go"), holding=str(folder / "holding")))
    (folder / "definitions.py").write_text(re.sub(r'("""Gradient-boosted trees[^\n]*\n)', r"\1    held()\n", code))
    (folder / "conf" / "retraining" / "hasty.yaml").write_text(HASTY)
    config = folder / "conf" / "config.yaml"
    config.write_text(re.sub(r"- retraining: \w+", "- retraining: hasty", config.read_text()))
    return folder


@pytest.fixture
def up(project: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Up]:
    """What runs; with the priority of trainings that a test asks for, else with the usual one: tests run beside others that fill the machine."""
    running = start(project, tmp_path / "said", "-o", f"training.priority={getattr(request, 'param', 'normal')}")
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


@pytest.fixture
def ledger(project: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{project}/.tidemill/ledger.db")
    yield opened
    opened.close()


def happens(check: Callable[[], bool]) -> None:
    """Wait for what takes a training and several starts of processes, on a busy machine as well."""
    eventually(check, within_s=300)


def child(up: Up, name: str) -> int:
    """The one process of that name, brought back if it just ended; what it said is shown then, as nothing here ends it."""
    happens(lambda: len(children(up, name)) == 1)
    if f"{name} ended with" in up.said.read_text():
        print((up.project / ".tidemill" / "log" / f"{name}.log").read_text()[-2_000:], file=sys.__stderr__)
    return children(up, name)[0]


def runs(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Id, cause and status of every run, newest last."""
    r = schema.run.c
    with ledger.read() as db:
        return [tuple(row) for row in db.execute(sa.select(r.id, r.cause_id, r.status).order_by(r.started_us))]


def steps(ledger: Ledger, run_id: str) -> dict[str, tuple[Any, ...]]:
    """What is recorded of each node of a run that ended."""
    s = schema.step_run.c
    with ledger.read() as db:
        rows = db.execute(sa.select(s.node, s.status, s.at_us, s.wall_ms).where(s.run_id == run_id, s.status != "running"))
        return {row[0]: tuple(row[1:]) for row in rows}


def roll_out_another(project: Path) -> Decision:
    """The live version once more as a candidate in shadow, on a person's word."""
    with_ports = Platform.open(project)
    live = transitions.live(with_ports.ledger, SERVICE)
    assert live is not None
    first = with_ports.registry.get(SERVICE, live.version)
    again = with_ports.registry.register(SERVICE, first.digest, run_id="by-hand", metrics={}, meta={}, at_us=with_ports.clock.now_us())
    decision = Decision(
        id=ids.derive("decision", "test", again.version), kind="manual", service=SERVICE, subject=f"{SERVICE}/{again.version}",
        outcome="start", cause={"version": again.version}, evidence={"reason": "to see it move"}, actor="test", at_us=with_ports.clock.now_us(),
    )  # fmt: skip
    with with_ports.ledger.write() as db:
        decisions.record(db, decision)
        transitions.start(db, SERVICE, again.version, decision)
    with_ports.close()
    return decision


def hold(up: Up, ledger: Ledger) -> str:
    """Wait until a training is under way, inside of its fit; the run's id."""
    happens(lambda: (up.project / "holding").exists())
    ((_, _, first), (run_id, _, status)) = runs(ledger)
    assert (first, status) == ("finished", "running")
    return run_id


def test_a_rollout_moves_while_a_training_is_under_way(up: Up, ledger: Ledger) -> None:
    run_id = hold(up, ledger)
    candidate = roll_out_another(up.project)
    happens(lambda: any(d.subject == candidate.subject and d.outcome == "reject" for d in decisions.listing(ledger)))
    assert runs(ledger)[-1][0::2] == (run_id, "running"), "the training was under way all the time"
    with closing(Platform.open(up.project)) as platform, pytest.raises(ConflictError, match="is under way"):
        manual.train(platform.loop, platform.definitions.service(), actor="test")
    (up.project / "go").touch()
    happens(lambda: runs(ledger)[-1][0::2] == (run_id, "finished"))
    happens(lambda: any(d.kind == "gate" and d.subject == f"{SERVICE}/3" for d in decisions.listing(ledger)))


@pytest.mark.parametrize("up", ["idle"], indirect=True)
@pytest.mark.skipif(sys.platform != "linux", reason="scheduling classes are Linux's")
def test_on_a_full_machine_the_training_ends_and_everybody_else_goes_first(up: Up, ledger: Ledger) -> None:
    run_id = hold(up, ledger)
    classes = {name: os.sched_getscheduler(child(up, name)) for name in ("api", "server", "reconciler", "trainer")}
    assert classes == dict.fromkeys(("api", "server", "reconciler"), os.SCHED_OTHER) | {"trainer": os.SCHED_IDLE}
    assert {os.getsid(child(up, name)) for name in classes} == {os.getsid(up.process.pid)}, "priorities count within a session"
    spinning = fill_the_machine()
    try:
        (up.project / "go").touch()
        eventually(lambda: runs(ledger)[-1][0::2] == (run_id, "finished"), within_s=1_200)
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_killed_trainers_and_reconcilers_lose_and_repeat_nothing(up: Up, ledger: Ledger) -> None:
    run_id = hold(up, ledger)
    done = steps(ledger, run_id)
    assert set(done) == {"training_set", "holdout"}
    trainer, reconciler = child(up, "trainer"), child(up, "reconciler")
    os.kill(reconciler, signal.SIGKILL)
    happens(lambda: children(up, "reconciler") not in ([], [reconciler]))
    assert children(up, "trainer") == [trainer], "a training does not depend on who asked for it"
    (up.project / "holding").unlink()
    os.kill(trainer, signal.SIGKILL)
    happens(lambda: (up.project / "holding").exists())
    assert children(up, "trainer") not in ([], [trainer])
    assert steps(ledger, run_id) == done, "finished steps are not made again"
    (up.project / "go").touch()
    happens(lambda: runs(ledger)[-1][0::2] == (run_id, "finished"))
    assert len(runs(ledger)) == len({cause for _, cause, _ in runs(ledger)}) == 2
    with closing(Platform.open(up.project)) as platform:
        assert [v.run_id for v in platform.registry.versions(SERVICE)].count(run_id) == 1


def test_ctrl_c_ends_a_training_and_the_next_up_finishes_it(up: Up, ledger: Ledger, tmp_path: Path) -> None:
    run_id = hold(up, ledger)
    trainer = child(up, "trainer")
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(trainer, 0)
    assert runs(ledger)[-1][0::2] == (run_id, "running")
    (up.project / "go").touch()
    again = start(up.project, tmp_path / "again", "-o", "training.priority=normal")
    try:
        happens(lambda: runs(ledger)[-1][0::2] == (run_id, "finished"))
    finally:
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0

"""The processes of `tidemill up` begin no ledger in the place of one that is gone, and end soon after they are told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.small_project import tidemill


@pytest.mark.parametrize("name", ["trainer", "api"])
def test_one_that_is_started_again_while_the_whole_ledger_is_gone_makes_none(tmp_path: Path, name: str) -> None:
    project = tmp_path / "kitchen"
    tidemill("init", str(project))
    home = project / ".tidemill"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tidemill.cli.processes", name, "--supervised", "--project", str(project)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()  # its standard input stays open, as under a supervisor
        assert (process.wait(120), "put it back as it was" in said) == (5, True), said
    assert not list(home.glob("ledger.db*"))


TURN = """
import time
from tidemill.cli import processes
processes.GRACE_S = {grace}
stop = processes._stop()
print("at it", flush=True)
{work}
print("through")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM that a process hears")
@pytest.mark.parametrize(
    ("grace", "work", "last"), [(60, "while not stop.is_set(): time.sleep(0.01)", "through\n"), (0.1, "time.sleep(600)", "")]
)
def test_a_turn_is_ended_some_seconds_after_a_stop(grace: float, work: str, last: str) -> None:
    command = [sys.executable, "-c", TURN.format(grace=grace, work=work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at it\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, last)

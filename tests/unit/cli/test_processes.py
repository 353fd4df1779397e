"""The processes of `tidemill up` begin no ledger in the place of one that is gone."""

from __future__ import annotations

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

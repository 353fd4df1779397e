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
    ended = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, "put it back as it was" in ended.stderr) == (5, True), ended.stderr
    assert not list(home.glob("ledger.db*"))

"""A project is moved with `mv`: the doctor says what to do, and then everything goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def tidemill(*args: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "tidemill.cli", *args], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == code, f"tidemill {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_a_moved_project_goes_on(tmp_path: Path) -> None:
    old, new = tmp_path / "kitchen", tmp_path / "elsewhere" / "my kitchen"
    tidemill("init", str(old))
    tidemill("replay", "--project", str(old), "--from", "2024-01-22", "--to", "2024-01-26", "--policy", "never", "--json")
    last = json.loads(tidemill("predict", "--project", str(old), "list", "--limit", "1", "--json"))[0]["id"]
    before = json.loads(tidemill("why", "--project", str(old), last, "--json"))
    new.parent.mkdir()
    old.rename(new)
    given = ("--project", str(new))
    assert "doctor --fix" in tidemill("why", *given, last, "--json", code=1)
    assert "doctor --fix" in tidemill("doctor", *given, code=1)
    assert "told where they are now" in tidemill("doctor", *given, "--fix")
    assert all(check["state"] == "ok" for check in json.loads(tidemill("doctor", *given, "--json")))
    assert json.loads(tidemill("why", *given, last, "--json")) == before
    assert json.loads(tidemill("features", *given, "verify", "--json"))["differences"] == 0
    assert json.loads(tidemill("ingest", *given, "--json")) is not None
    assert not old.exists()

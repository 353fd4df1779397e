"""Real Locust against a running model server (TIDEMILL_LOCUST_PYTHON, or .venv-locust: python -m venv, pip install locust)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from tests.support.serving_kit import LOOKUP, Stack, free_port, server

from tidemill.adapters.locust.run import run
from tidemill.adapters.locust.write import FILE, write

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.live


@pytest.fixture
def python() -> str:
    if importlib.util.find_spec("locust"):
        return sys.executable
    found = os.environ.get("TIDEMILL_LOCUST_PYTHON") or str(ROOT / ".venv-locust" / "bin" / "python")
    if not Path(found).is_file():
        told = "there is no Python with Locust: python -m venv .venv-locust && .venv-locust/bin/pip install locust"
        (pytest.fail if "locust" in os.environ.get("TIDEMILL_LIVE", "") else pytest.skip)(told)
    return found


def test_locust_loads_a_running_server_and_its_measurements_are_those_of_the_log(tmp_path: Path, python: str) -> None:
    stack = Stack(tmp_path)
    stack.add(1)
    stack.deploy(live=1)
    token = stack.tokens.make("load", "admin")
    write(stack.service, [[LOOKUP], [LOOKUP, LOOKUP, LOOKUP]], tmp_path / "load")
    port = free_port()
    with server(tmp_path, port):
        found = run(tmp_path / "load" / FILE, f"http://127.0.0.1:{port}", users=4, time="4s", python=python, token=token)
        slow = run(tmp_path / "load" / FILE, f"http://127.0.0.1:{port}", users=4, time="4s", rate=20, python=python, token=token)
        refused = run(tmp_path / "load" / FILE, f"http://127.0.0.1:{port}", users=1, time="2s", python=python, token="wrong")
    assert (found["failures"], slow["failures"]) == (0, 0)
    assert found["rate"] > slow["rate"]
    assert 10 <= slow["rate"] <= 25
    assert refused["failures"] == refused["requests"] > 0
    assert "401" in refused["errors"][0]["error"]
    ids = {p.id.partition("/")[0] for p in stack.log.read("late") if p.id.startswith("loadtest-")}
    assert len(ids) >= found["requests"] + slow["requests"]
    assert {len(p.id.partition("/")[2]) for p in stack.log.read("late")} == {0, 1}

"""`tidemill up` serves a project: a token once, answers with ids, a killed server back again, Ctrl-C drains."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
REQUEST = {"kitchen": "taco", "distance_km": 3.2, "items": 2, "placed_at": "2024-02-05T19:00:00Z"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], bool], within_s: float = 60.0) -> None:
    until = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.1)


@dataclass
class Up:
    """A running `tidemill up`. `said` is where its output goes."""

    project: Path
    process: subprocess.Popen[bytes]
    said: Path
    port: int
    serving_port: int

    @property
    def token(self) -> str:
        found = re.search(r"tm_\S+", self.said.read_text())
        assert found is not None
        return found[0]

    def predict(self, token: str, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "tidemill.cli",
            "predict",
            "--project",
            str(self.project),
            "--url",
            f"http://127.0.0.1:{self.serving_port}",
        ]
        environment = {**os.environ, "TIDEMILL_TOKEN": token}
        return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False, timeout=60)


def start(project: Path, said: Path, *options: str) -> Up:
    ports = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "tidemill.cli",
        "up",
        "--project",
        str(project),
        "--port",
        str(ports[0]),
        "--serving-port",
        str(ports[1]),
        *options,
    ]
    with said.open("wb") as out:
        up = Up(project, subprocess.Popen(command, stdout=out, stderr=out), said, *ports)
    eventually(lambda: "ready" in said.read_text() or up.process.poll() is not None)
    assert up.process.poll() is None, said.read_text()
    return up


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("up") / "kitchen"
    for command in (
        ["init", str(folder)],
        ["replay", "--project", str(folder), "--from", "2024-01-22", "--to", "2024-01-25", "--policy", "never"],
    ):
        subprocess.run([sys.executable, "-m", "tidemill.cli", *command], check=True, capture_output=True, timeout=200)
    return folder


@pytest.fixture(scope="module")
def up(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = start(project, tmp_path_factory.mktemp("said") / "out")
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


def test_a_request_by_keys_is_answered_with_an_id_and_remembered(up: Up) -> None:
    done = up.predict(up.token, "--request", json.dumps(REQUEST), "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert 0 < answer["score"] < 1
    listed: list[dict[str, Any]] = json.loads(up.predict(up.token, "list", "--limit", "5", "--json").stdout)
    assert answer["id"] in {row["id"] for row in listed}


def test_exit_codes_follow_the_server(up: Up) -> None:
    assert up.predict("", "--request", json.dumps(REQUEST)).returncode == 4
    assert up.predict("tm_wrong", "--request", json.dumps(REQUEST)).returncode == 4
    assert up.predict(up.token, "--request", json.dumps({**REQUEST, "placed_at": "soon"})).returncode == 2
    assert up.predict(up.token, "--request", "{").returncode == 2
    assert up.predict(up.token, "--url", f"http://127.0.0.1:{free_port()}", "--request", json.dumps(REQUEST)).returncode == 5


def test_console_and_api_ask_for_the_token(up: Up) -> None:
    address = f"http://127.0.0.1:{up.port}/api/v1/services"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address, timeout=10)
    assert refused.value.code == 401
    refused.value.close()
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {up.token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "kitchen" in answer.read().decode()


def test_only_one_up_on_a_home(up: Up) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli", "up", "--project", str(up.project)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "another `tidemill up`" in done.stderr


def children(up: Up, name: str) -> list[int]:
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed[1:]]
    return [int(pid) for pid, parent, command in rows if int(parent) == up.process.pid and f"processes {name} " in command]


def test_a_killed_server_comes_back(up: Up) -> None:
    (pid,) = children(up, "server")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: children(up, "server") not in ([], [pid]))
    eventually(lambda: up.predict(up.token, "--request", json.dumps(REQUEST)).returncode == 0)
    assert "server ended with signal 9" in up.said.read_text()


def test_ctrl_c_drains_and_the_token_is_not_shown_again(up: Up) -> None:
    token = up.token
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    again = start(up.project, up.said.with_name("again"))
    try:
        assert "tm_" not in again.said.read_text()
        assert again.predict(token, "--request", json.dumps(REQUEST)).returncode == 0
    finally:
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0

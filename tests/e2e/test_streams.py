"""The example of streams: events pushed are online at once and exactly once, whoever is killed, and equal to the table."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.e2e.test_up import Up, children, eventually, start

from tidemill.cli.app import cli
from tidemill.core.clock import WallClock
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.features.ports import AT
from tidemill.platform.root import Platform
from tidemill.testing import reference

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "streams"
CARDS = [{"card": f"c{n}"} for n in range(51)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "payments", ignore=shutil.ignore_patterns(".tidemill", "__pycache__")))


def made(project: Path, count: int, seed: int) -> str:
    command = [sys.executable, str(project / "make_events.py"), str(count), str(seed)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def ask(project: Path, *arguments: str, given: str = "") -> Any:
    result = CliRunner().invoke(cli, [*arguments[:1], "--project", str(project), *arguments[1:]], input=given)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout) if "--json" in arguments else result.output


def online_and_offline(project: Path, at_us: int) -> tuple[list[Any], list[Any]]:
    """The features of all cards, read online and joined from the table."""
    platform = Platform.open(project)
    try:
        view = platform.definitions.views["spend"]
        online = platform.reader.read([view], CARDS, at_us)
        spine = pa.table(
            {"card": [c["card"] for c in CARDS], AT: pa.array([at_us] * len(CARDS), pa.int64()).cast(pa.timestamp("us", "UTC"))}
        )
        offline = platform.offline.join(spine, [view], {"payments": platform.tables.scan("payments")}).to_pylist()
    finally:
        platform.close()
    return online, [{name: row[name] for name in view.columns} for row in offline]


def same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        assert reference.same(a, b), (a, b)


def test_the_example_from_the_command_line(project: Path) -> None:
    assert "rows pushed to payments" in ask(project, "push", "payments", given=made(project, 600, 1))
    with pytest.raises(InvalidError, match="line 1 is not JSON"):
        ask(project, "push", "payments", given="{")
    with pytest.raises(NotFoundError, match="no table named 'nothing'"):
        ask(project, "push", "nothing")
    (told,) = ask(project, "features", "follow", "--once", "--json")
    assert (told["behind"], told["quarantined"]) == (0, 1)
    assert told["taken"] >= 600
    at_us = WallClock().now_us()
    before = online_now(project, at_us)
    (aside,) = ask(project, "features", "quarantine", "payments", "--json")
    assert (aside["kind"], json.loads(aside["body"])["payment"]) == ("future", "1-500")
    assert "ahead of its arrival; 10m is allowed" in ask(project, "features", "quarantine")
    shown = ask(project, "features", "read", "spend", "--key", '{"card": "c7"}', "--json")
    assert shown["spend__count_1d"] > 0

    ask(project, "ingest")
    (again,) = ask(project, "features", "follow", "--once", "--json")
    assert again["taken"] == 0
    online, offline = online_and_offline(project, at_us)
    same(online, before)
    same(online, offline)
    (aside,) = ask(project, "features", "quarantine", "--json")
    assert aside["kind"] == "future", "judged twice, kept once"


def online_now(project: Path, at_us: int) -> list[Any]:
    platform = Platform.open(project)
    try:
        return platform.reader.read([platform.definitions.views["spend"]], CARDS, at_us)
    finally:
        platform.close()


def test_up_follows_and_a_killed_follower_loses_and_doubles_nothing(project: Path) -> None:
    up = start(project, project.parent / "out")
    try:
        sent = 0
        for seed in range(3):
            rows = [json.loads(line) for line in made(project, 200, seed).splitlines()]
            push(up, rows)
            sent += len(rows)
            time.sleep(0.3 * seed)
            for pid in children(up, "follower"):
                os.kill(pid, signal.SIGKILL)

        def arrived() -> bool:
            return (
                any(line.startswith("tidemill_serving_stream_behind_events") and line.endswith(" 0") for line in metrics(up))
                and count(up) > 0
            )

        eventually(lambda: bool(children(up, "follower")) and arrived() and total(project) >= 3 * 200 - 5)
        other = subprocess.run(
            [sys.executable, "-m", "tidemill.cli", "features", "--project", str(project), "follow", "--once"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "another process follows" in other.stderr
        ask(project, "ingest")
        online, offline = online_and_offline(project, WallClock().now_us())
        same(online, offline)
    finally:
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 0


def push(up: Up, rows: list[Any]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.port}/api/v1/tables/payments/rows",
        data=json.dumps(rows).encode(),
        headers={"authorization": f"Bearer {up.token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.loads(answer.read())["rows"] == len(rows)


def metrics(up: Up) -> list[str]:
    request = urllib.request.Request(f"http://127.0.0.1:{up.serving_port}/metrics", headers={"authorization": f"Bearer {up.token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode()).splitlines()


def count(up: Up) -> int:
    body = {"features": ["spend:count_1d"], "entities": {"card": [c["card"] for c in CARDS]}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.serving_port}/get-online-features",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {up.token}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found = json.loads(answer.read())
    return sum(n or 0 for result in found["results"][1:] for n in result["values"])


def total(project: Path) -> int:
    """Payments that are online."""
    return sum(row["spend__count_1d"] for row in online_now(project, WallClock().now_us()))

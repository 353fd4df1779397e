"""Several server processes on one port answer, log, count and stop as one."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.support.serving_kit import FULL, Stack, body, free_port, server
from tests.support.waiting import until as wait
from tests.unit.serving.test_serving_process import Load

from tidemill.core.conditions import Condition
from tidemill.core.errors import UnavailableError
from tidemill.serving.board import Board, Counts
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.metrics import ServiceMetrics
from tidemill.serving.workers import supervise

WORKERS = 3


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path)
    for version in (1, 2, 3):
        made.add(version)
    made.deploy(live=1)
    return made


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def listening(port: int) -> int:
    """How many sockets wait for connections at the port (state 0A of proc(5)'s net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def metric(port: int, secret: str, name: str) -> float:
    """The sum of a metric over its labels, asked on a new connection: whichever process takes it."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {secret}"}, timeout=20).text
    return sum(float(value) for value in re.findall(rf"^tidemill_serving_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


wait_for = partial(wait, seconds=60, every_s=0.1)


@pytest.mark.slow
def test_swaps_lose_no_request_each_answer_is_logged_once_and_metrics_are_of_all(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "admin")
    with server(stack.home, port, WORKERS) as process:
        wait_for("all workers", lambda: listening(port) == WORKERS)
        counted = [0.0]
        with Load(port, secret, clients=12) as one, Load(port, secret, clients=12) as two:
            for roles in ({"live": 2}, {"live": 2, "canary": (3, 0.5)}, {"live": 3, "shadow": 1}, {"live": 1}):
                goal = len(one.answers) + 60
                stack.deploy(**roles)
                while len(one.answers) < goal:
                    time.sleep(0.02)
                    counted.append(metric(port, secret, "requests_total"))
                time.sleep(0.3)
        answers = one.answers + two.answers
        assert one.failures + two.failures == []
        assert {version for _, version, _ in answers} == {"1", "2", "3"}
        assert counted == sorted(counted), "a counter went back when another process was asked"
        wait_for("the counts of all", lambda: metric(port, secret, "requests_total") == len(answers))
        assert metric(port, secret, "predictions_total") == metric(port, secret, "latency_seconds_count") == len(answers)
        folder = Path(Path(f"/proc/{children(process.pid)[0]}/cmdline").read_text().split("\0")[-3])
        taken = [json.loads(path.read_text())["services"]["late"]["requests"] for path in folder.glob("*.json")]
        assert len(taken) == WORKERS
        assert min(taken) > 0, "a worker was never asked"
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    log = Counter((p.id, p.role != "shadow") for p in SqlitePredictionLog(stack.home / "predictions.db").read("late"))
    assert all(logged is True for _, _, logged in answers)
    assert {key: n for key, n in log.items() if key[1]} == {(name, True): 1 for name, _, _ in answers}
    assert "Traceback" not in (stack.home / "server.log").read_text()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_acknowledged_is_lost(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "admin")
    with server(stack.home, port, 2) as process:
        wait_for("both workers", lambda: len(children(process.pid)) == 2)
        with Load(port, secret) as load:
            while len(load.answers) < 40:
                time.sleep(0.02)
            before = metric(port, secret, "requests_total")
            victim = children(process.pid)[0]
            os.kill(victim, signal.SIGKILL)
            wait_for("another worker", lambda: len(children(process.pid)) == 2 and victim not in children(process.pid))
            goal = len(load.answers) + 40
            while len(load.answers) < goal:
                time.sleep(0.02)
            assert metric(port, secret, "requests_total") >= before
        workers = children(process.pid)
        process.kill()
        process.wait()
        wait_for("workers to end with their supervisor", lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    kept = Counter(p.id for p in SqlitePredictionLog(stack.home / "predictions.db").read("late"))
    assert [name for name, _, logged in load.answers if logged is True and kept[name] != 1] == []


def test_workers_that_cannot_start_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["false"]))
        return started[-1]

    monkeypatch.setattr("tidemill.serving.workers._start", start)
    with pytest.raises(UnavailableError, match="exit code 1"):
        supervise("nothing:here", "127.0.0.1", 1, 2)
    assert len(started) == 7
    assert signal.getsignal(signal.SIGTERM) is before


def counts(metrics: ServiceMetrics, degraded: int = 0, waiting: int = 0, lost: int = 0) -> Counts:
    return Counts({"late": metrics.facts()}, {"log_degraded": degraded, "log_backlog_rows": waiting}, {"log_lost_total": lost})


def test_a_board_adds_up_what_lives_and_what_has_ended(tmp_path: Path) -> None:
    metrics = []
    for n in (1, 2, 4):
        metrics.append(ServiceMetrics())
        metrics[-1].requests = n
        metrics[-1].errors[400] = n
        metrics[-1].predictions[1, "live"] = 10 * n
        metrics[-1].latency.observe(0.003)
    boards = [Board(tmp_path, name) for name in "aab"]
    for number, board in enumerate(boards):  # as three processes, of which the second took the first one's place
        board._file = tmp_path / f"{'aab'[number]}.{number}.json"
        board.write(partial(counts, metrics[number], degraded=1, waiting=5, lost=7))
        os.utime(board._file, (number, number))
    gone = Condition("late", "model", 7, "means", "why")
    boards[0].write(partial(counts, metrics[0]), [replace(gone, cause="ledger")])
    os.utime(boards[0]._file, (0, 0))
    boards[1].write(partial(counts, metrics[1], degraded=1, waiting=5, lost=7), [gone])
    os.utime(boards[1]._file, (1, 1))
    assert boards[2].conditions([replace(gone, since_us=9)]) == [gone], "noticed first by another; one that has ended does not count"
    boards[0].write(partial(counts, metrics[0], degraded=1, waiting=5, lost=7))
    os.utime(boards[0]._file, (0, 0))
    total, now, ever = boards[2].together(counts(metrics[2], waiting=1))
    assert (total["late"].requests, total["late"].errors[400], total["late"].predictions[1, "live"]) == (7, 7, 70)
    assert sum(total["late"].latency.counts) == 3
    assert now == {"log_degraded": 1, "log_backlog_rows": 6}
    assert ever == {"log_lost_total": 14}
    assert metrics[2].requests == 4


def test_what_was_counted_before_does_not_replace_what_was_counted_after(tmp_path: Path) -> None:
    """One thread of a process has counted and is slow to write while another one counts: a scraper asking elsewhere must not see the older count."""
    mine, other = Board(tmp_path, "a"), Board(tmp_path, "b")
    other._file = tmp_path / "b.0.json"
    metrics, begun, go_on = ServiceMetrics(), threading.Event(), threading.Event()

    def slowly() -> Counts:
        said = counts(metrics)
        begun.set()
        go_on.wait(0.2)
        return said

    slow = threading.Thread(target=mine.write, args=(slowly,))
    slow.start()
    begun.wait()
    metrics.requests = 5
    told = mine.together(mine.write(partial(counts, metrics)))[0]["late"].requests
    go_on.set()
    slow.join()
    assert told == 5
    assert other.together(counts(ServiceMetrics()))[0]["late"].requests >= told


def test_one_request_over_two_workers_on_the_wire(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("w", "admin")
    with server(stack.home, port, 2) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        answer = client.post("/v2/models/late/infer", content=body(FULL), headers={"authorization": f"Bearer {secret}"})
        assert answer.json()["parameters"]["logged"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def test_what_one_of_two_workers_has_to_do_without_is_told_by_both(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("w", "admin")
    folder = stack.home / "predictions.db-arrived"
    folder.touch()  # a file where the journal's folder has to be: whoever is asked to log cannot
    where, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {secret}"}

    def told() -> list[tuple[str, ...]]:
        """Asked on new connections, so by whichever process takes each."""
        return [tuple(c["cause"] for c in httpx.get(f"{where}/v2/health", timeout=20).json()["conditions"]) for _ in range(12)]

    with server(stack.home, port, 2) as process:
        wait_for("both workers", lambda: listening(port) == 2)
        answer = httpx.post(f"{where}/v2/models/late/infer", content=body(FULL), headers=headers, timeout=20)
        assert answer.json()["parameters"]["logged"] == "degraded"
        wait_for("one view", lambda: told() == [("prediction_log",)] * 12)
        texts = [httpx.get(f"{where}/metrics", headers=headers, timeout=20).text for _ in range(6)]
        assert all('tidemill_degraded{service="late",cause="prediction_log"} 1\n' in text for text in texts)
        moved = (stack.home / "ledger.db").rename(stack.home / "elsewhere")
        wait_for("both causes", lambda: told() == [("ledger", "prediction_log")] * 12)
        assert httpx.get(f"{where}/v2/health/ready", timeout=20).status_code == 200
        folder.unlink()
        moved.rename(stack.home / "ledger.db")
        wait_for("nothing any more", lambda: told() == [()] * 12)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    assert [p.id for p in SqlitePredictionLog(stack.home / "predictions.db").read("late")] == [answer.json()["id"]]

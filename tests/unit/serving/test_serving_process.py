"""The server as a process: under load, swapped, drained and killed."""

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import httpx
import pytest
from tests.support.serving_kit import FULL, Stack, body, free_port, server

from tidemill.core.errors import ConfigError
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.run import load


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path)
    for version in (1, 2, 3):
        made.add(version)
    made.deploy(live=1)
    return made


class Load:
    """Clients that ask without pause and keep every answer."""

    def __init__(self, port: int, secret: str, clients: int = 8) -> None:
        self.url = f"http://127.0.0.1:{port}/v2/models/late/infer"
        self.headers = {"authorization": f"Bearer {secret}"}
        self.answers: list[tuple[str, str, bool | str]] = []
        self.failures: list[str] = []
        self.stop = False
        self._clients = clients
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with httpx.AsyncClient(headers=self.headers, timeout=10) as client:
            await asyncio.gather(*(self._ask(client, i) for i in range(self._clients)))

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        count = 0
        while not self.stop:
            count += 1
            name = f"{os.getpid()}-{id(self)}-{number}-{count}"
            try:
                reply = await client.post(self.url, content=body(FULL, id=name))
            except httpx.TransportError as error:
                self.failures.append(repr(error))
                await asyncio.sleep(0.02)
                continue
            if reply.status_code != 200:
                self.failures.append(reply.text)
                continue
            got = reply.json()
            self.answers.append((name, got["model_version"], got["parameters"]["logged"]))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop = True
        self._thread.join()


def test_no_request_fails_while_versions_are_swapped_and_a_stop_drains(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "data-scientist")
    with server(stack.home, port) as process:
        with Load(port, secret) as load_:
            for roles in ({"live": 2}, {"live": 2, "canary": (3, 0.5)}, {"live": 3, "shadow": 1}, {"live": 1}):
                seen = len(load_.answers)
                stack.deploy(**roles)
                while len(load_.answers) < seen + 40:
                    time.sleep(0.01)
                time.sleep(0.15)
        assert load_.failures == []
        assert {version for _, version, _ in load_.answers} == {"1", "2", "3"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    log = Counter((p.id, p.role != "shadow") for p in SqlitePredictionLog(stack.home / "predictions.db").read("late"))
    assert all(log[name, True] == 1 for name, _, logged in load_.answers if logged is True)
    assert all(logged is True for _, _, logged in load_.answers)
    assert "Traceback" not in (stack.home / "server.log").read_text()


def test_answers_in_flight_when_it_is_told_to_stop_are_given(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "data-scientist")
    with server(stack.home, port) as process, Load(port, secret) as load_:
        while len(load_.answers) < 50:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    kept = Counter(p.id for p in SqlitePredictionLog(stack.home / "predictions.db").read("late"))
    assert kept == Counter(name for name, _, _ in load_.answers), "what was taken was answered, what was answered is kept"


def _kill_round(stack: Stack, port: int, secret: str, rest_s: float) -> list[str]:
    with server(stack.home, port) as process, Load(port, secret) as load_:
        while len(load_.answers) < 20:
            time.sleep(0.005)
        time.sleep(rest_s)
        process.kill()
        process.wait()
        load_.stop = True
    return [name for name, _, logged in load_.answers if logged in (True, "written")]


def _killed(stack: Stack, rounds: int) -> None:
    port, secret, seed = free_port(), stack.tokens.make("load", "data-scientist"), random.Random(rounds)
    stack.deploy(live=1, canary=(2, 0.5))
    acknowledged: list[str] = []
    for _ in range(rounds):
        acknowledged += _kill_round(stack, port, secret, seed.uniform(0, 0.3))
    kept = Counter(p.id for p in SqlitePredictionLog(stack.home / "predictions.db").read("late", roles=["live", "canary"]))
    assert len(acknowledged) >= 20 * rounds
    assert [name for name in acknowledged if kept[name] != 1] == []


def test_kill_9_loses_no_acknowledged_prediction(stack: Stack) -> None:
    _killed(stack, 3)


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["yes", "no"])
def test_kill_9_loses_no_acknowledged_prediction_10_times(stack: Stack, sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_KIT_SYNC", sync)
    _killed(stack, 10)


def test_many_connections_stay_open(stack: Stack) -> None:
    port, secret, asked = free_port(), stack.tokens.make("many", "admin"), body(FULL)
    head = f"POST /v2/models/late/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {secret}\r\nContent-Length: {len(asked)}\r\n\r\n"

    async def ask() -> list[bytes]:
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(300)))
        for _, writer in opened:
            writer.write(head.encode() + asked)
        lines = [await asyncio.wait_for(reader.readline(), 20) for reader, _ in opened]  # all are open until all are answered
        for _, writer in opened:
            writer.close()
        return lines

    with server(stack.home, port):
        assert {line.split()[1] for line in asyncio.run(ask())} == {b"200"}


def test_over_the_wire(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("w", "admin")
    with server(stack.home, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        infer, headers = "/v2/models/late/infer", {"authorization": f"Bearer {secret}"}
        assert client.post(infer, content=body(FULL)).status_code == 401
        assert client.post(infer, content=body(FULL), headers=headers).json()["parameters"]["logged"] is True
        huge = client.post(infer, content=b"[" * (50 << 20), headers=headers)
        assert (huge.status_code, list(huge.json())) == (413, ["error"])
        chunked = client.post(infer, content=iter([body(FULL)[:10], body(FULL)[10:]]), headers=headers)
        assert chunked.status_code == 200
        nan = client.post(infer, content=body(FULL).replace(b"3.0", b"NaN"), headers=headers)
        assert (nan.status_code, "NaN" in nan.json()["error"]) == (400, True)
        assert client.get("/metrics", headers=headers).headers["content-type"].startswith("text/plain")
        assert json.loads(client.get("/v2/health").text)["logging"]["state"] == "ok"


@pytest.mark.parametrize("path", ["/v2/models/late/infer", "/invocations"])
def test_a_body_that_does_not_come_is_given_up(stack: Stack, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_KIT_BODY_S", "0.5")
    port, secret = free_port(), stack.tokens.make("w", "admin")
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-type: application/json\r\n"
    with server(stack.home, port), socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        said = b""
        while piece := line.recv(4096):
            said += piece
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not come within 0.5 s" in said
        got = httpx.post(f"http://127.0.0.1:{port}/v2/models/late/infer", content=body(FULL), headers={"authorization": f"Bearer {secret}"})
        assert got.status_code == 200
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {secret}"}).text
        assert 'tidemill_serving_errors_total{service="late",status="408"} 1' in text


@pytest.mark.parametrize("sent", ["POST /v2/mod", "POST /v2/models/late/infer HTTP/1.1\r\nhost: x\r\nauthor"])
def test_a_head_that_does_not_come_is_given_up(stack: Stack, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_KIT_HEAD_S", "0.5")
    port, secret = free_port(), stack.tokens.make("w", "admin")
    headers = {"authorization": f"Bearer {secret}"}
    with server(stack.home, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(sent.encode())
            assert line.recv(4096) == b"", "it is closed"
        for _ in range(2):
            assert client.post("/v2/models/late/infer", content=body(FULL), headers=headers).status_code == 200
            time.sleep(1)  # the client finds its connection closed, and makes another


@pytest.mark.parametrize(
    "target", ["nothing.here:app", "tests.support.serving_kit:nothing", "tests.support.serving_kit:free_port", "serving_kit"]
)
def test_a_target_that_is_no_factory_says_so(target: str) -> None:
    with pytest.raises(ConfigError, match=target):
        load(target)

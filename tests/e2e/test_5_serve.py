"""Story 5: the model server answers by keys and by full inputs, remembers every answer, and swaps versions without a failed request."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Story

from tidemill.core.instants import DAY_US, format_instant
from tidemill.platform.root import Platform
from tidemill.retraining import decisions
from tidemill.serving import Tokens

pytestmark = pytest.mark.xdist_group("story")


@dataclass
class Server:
    """A running model server on the story's project."""

    url: str
    token: str
    process: subprocess.Popen[bytes]

    def infer(self, columns: Mapping[str, list[Any]], *, id_: str = "", at_us: int | None = None) -> httpx.Response:
        """An Open Inference Protocol request: one tensor per column."""
        kinds = {str: "BYTES", float: "FP64", int: "INT64"}
        inputs = [
            {"name": name, "shape": [len(values)], "datatype": kinds[type(next((v for v in values if v is not None), 0.0))], "data": values}
            for name, values in columns.items()
        ]
        body: dict[str, Any] = {"inputs": inputs}
        if id_:
            body["id"] = id_
        if at_us is not None:
            body["parameters"] = {"at": format_instant(at_us)}
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.post(f"{self.url}/v2/models/flight-delay/infer", json=body, headers=headers, timeout=20)


@pytest.fixture(scope="module")
def server(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    opened = Platform.open(story.project)
    token = Tokens(opened.ledger, opened.clock).make("test", "ml-engineer")
    opened.close()
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "tidemill.cli.processes", "server", "--project", str(story.project)]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "-o", f"serving.port={port}", "-o", "serving.allow_at=true"], stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=1).status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    yield Server(url, token if isinstance(token, str) else token.secret, process)
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def _keys(story: Story, platform: Platform) -> dict[str, Any]:
    """What a flight that was served at the end of the story was asked with."""
    asked = next(platform.log.read("flight-delay", from_us=story.until_us - DAY_US // 2, roles=("live",)))
    request = {k: v for k, v in asked.request.items() if k != "at"}
    return {"prediction": asked, "request": {k: _plain(v) for k, v in request.items()}}


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_entity_keys_alone_are_enough(story: Story, platform: Platform, server: Server) -> None:
    known = _keys(story, platform)
    service = platform.definitions.service()
    columns = {name: [known["request"][name]] for name in service.request_columns}
    answer = server.infer(columns, id_="by-keys-1", at_us=story.until_us - 1)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["id"] == "by-keys-1"
    score = next(o for o in body["outputs"] if o["name"] == "score")
    assert 0 < score["data"][0] < 1
    logged = platform.log.find("by-keys-1")[0]
    assert logged.score == score["data"][0]
    values = dict(zip(logged.columns, logged.values, strict=True))
    assert values["traffic__count_3h"] is not None
    assert values["carrier"] == known["request"]["carrier"]


def test_full_inputs_give_the_same_score_as_when_it_was_served(story: Story, platform: Platform, server: Server) -> None:
    served = _keys(story, platform)["prediction"]
    live = platform.registry.get("flight-delay", "champion").version
    columns = {c: [v] for c, v in zip(served.columns, served.values, strict=True)}
    answer = server.infer(columns, id_="by-inputs-1")
    assert answer.status_code == 200, answer.text
    score = next(o for o in answer.json()["outputs"] if o["name"] == "score")["data"][0]
    if served.version == live:
        assert score == pytest.approx(served.score, abs=1e-12)
    assert platform.log.find("by-inputs-1")[0].values == served.values


def test_requests_without_a_token_and_malformed_ones_are_refused_with_a_reason(server: Server) -> None:
    assert httpx.post(f"{server.url}/v2/models/flight-delay/infer", json={"inputs": []}, timeout=10).status_code == 401
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    deep = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    nan = b'{"inputs":[{"name":"distance","shape":[1],"datatype":"FP64","data":[NaN]}]}'
    cases: dict[str, tuple[str, bytes]] = {
        "unknown model": ("nope", b"{}"),
        "wrong type": ("flight-delay", b'{"inputs":[{"name":"distance","shape":[1],"datatype":"FP64","data":["far"]}]}'),
        "wrong shape": ("flight-delay", b'{"inputs":[{"name":"distance","shape":[2],"datatype":"FP64","data":[1.0]}]}'),
        "not UTF-8": ("flight-delay", b'{"inputs":[{"name":"\xff\xfe","shape":[1],"datatype":"BYTES","data":["x"]}]}'),
        "NaN": ("flight-delay", nan),
        "deep": ("flight-delay", deep),
        "not JSON": ("flight-delay", b"hello"),
    }
    for name, (model, body) in cases.items():
        answer = httpx.post(f"{server.url}/v2/models/{model}/infer", content=body, headers=headers, timeout=20)
        assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
        assert len(answer.json()["error"]) > 5, name
    big = httpx.post(f"{server.url}/v2/models/flight-delay/infer", content=b" " * 50_000_000, headers=headers, timeout=60)
    assert big.status_code == 413


def test_versions_are_swapped_under_load_without_a_failed_request(story: Story, platform: Platform, server: Server) -> None:
    served = _keys(story, platform)["prediction"]
    columns = {c: [v] for c, v in zip(served.columns, served.values, strict=True)}
    service = platform.definitions.service()
    champion = platform.registry.get("flight-delay", "champion").version
    versions = sorted(v.version for v in platform.registry.versions("flight-delay") if v.status != "rejected")[:2]
    assert len(versions) == 2, "the story has two versions to swap"
    failures: list[str] = []
    seen: dict[int, int] = {}
    stop = threading.Event()

    def ask(worker: int) -> None:
        n = 0
        while not stop.is_set():
            answer = server.infer(columns, id_=f"swap-{worker}-{n}")
            n += 1
            if answer.status_code != 200:
                failures.append(answer.text)
            else:
                version = int(answer.json()["model_version"])
                seen[version] = seen.get(version, 0) + 1

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for version in (versions[1], versions[0], versions[1], versions[0]):
        decisions.promote(platform.loop, service, version, "test", reason="swapped under load")
        time.sleep(1.5)
    decisions.promote(platform.loop, service, champion, "test", reason="back again")
    stop.set()
    for worker in workers:
        worker.join()
    assert not failures, failures[:3]
    assert set(seen) >= set(versions), f"both versions answered: {seen}"
    logged = {p.id for p in platform.log.read("flight-delay", from_us=story.until_us, roles=("live",)) if p.id.startswith("swap-")}
    assert len(logged) == sum(seen.values()), "every acknowledged prediction is in the log once"


def test_tidemill_help_lists_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli", "--help"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"}
    )
    for verb in ("init", "up", "demo", "replay", "ingest", "validate", "features", "train", "tune", "run", "models", "gate", "deploy", "rollout",
                 "predict", "labels", "monitor", "decisions", "why", "reproduce", "ledger", "doctor"):  # fmt: skip
        assert f"  {verb} " in done.stdout, verb


def test_health_and_metadata(server: Server) -> None:
    assert httpx.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200
    headers = {"Authorization": f"Bearer {server.token}"}
    meta = httpx.get(f"{server.url}/v2/models/flight-delay", headers=headers, timeout=5).json()
    assert meta["name"] == "flight-delay"
    assert {i["name"] for i in meta["inputs"]} >= {"carrier", "origin", "dest"}
    assert json.dumps(meta)

"""The image of `tidemill build`, built and run by a real Docker engine."""

import asyncio
import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.docker_engine import WANTED, Engine, base_image, docker_engine
from tests.support.serving_kit import free_port
from tests.support.small_project import asked, ingested, tidemill

from tidemill.platform.root import Platform

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.xdist_group("docker")]
TOKEN = "0123456789abcdef0123456789abcdef"
ROW = {"kitchen": "taco", "distance_km": 3.5, "items": 2.0, "recent__minutes_mean_3h": 31.0, "recent__count_3h": 4.0, "hour": 18.0}
INPUTS = [{"name": n, "datatype": "BYTES" if isinstance(v, str) else "FP64", "shape": [1], "data": [v]} for n, v in ROW.items()]
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
PATH = "/v2/models/kitchen/infer"
GUARDED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
INSIDE = f"""
import json, sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8401{PATH}", sys.argv[1].encode(), json.loads(sys.argv[2]))
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""
LOGGED = """
import json
from tidemill.serving.embedded import SqlitePredictionLog
print(json.dumps([p.id for p in SqlitePredictionLog("/state/predictions.db").read("kitchen")]))
"""


@dataclass
class Built:
    """An image, and the score that the project's own server gives for `ROW`."""

    engine: Engine
    score: float
    tag: str = "kitchen:1"
    names: list[str] = field(default_factory=list)

    def start(self, *words: str, command: tuple[str, ...] = ()) -> str:
        """Start a container, whose health is looked at every second; its name."""
        name = f"run-{len(self.names)}"
        self.names.append(name)
        self.engine.run("run", "-d", "--name", name, "--health-interval", "1s", "-e", f"TIDEMILL_TOKEN={TOKEN}", *words, self.tag, *command)
        return name

    def healthy(self, name: str) -> None:
        for _ in range(240):
            state = self.state(name)
            assert state["Running"], self.logs(name)
            if state["Health"]["Status"] == "healthy":
                return
            time.sleep(0.25)
        raise AssertionError(f"{self.state(name)}\n{self.logs(name)}")

    def stop(self, name: str) -> None:
        """`docker stop`: SIGTERM, and SIGKILL (exit code 137) for whoever is there after 30 seconds."""
        self.engine.run("stop", "--time", "30", name)
        assert self.state(name)["ExitCode"] == 0, self.logs(name)

    def state(self, name: str) -> Any:
        return json.loads(self.engine.out("inspect", "--format", "{{json .State}}", name))

    def logs(self, name: str) -> str:
        done = self.engine.run("logs", name)
        return done.stdout + done.stderr

    def logged(self, volume: str) -> list[str]:
        """The ids in the prediction log that a volume holds."""
        words = ["--network", "none", "-v", f"{volume}:/state", "--entrypoint", "python", self.tag, "-c", LOGGED]
        return list(json.loads(self.engine.out("run", "--rm", *words)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with docker_engine() as engine:
        project, context = (tmp_path_factory.mktemp(name) / "kitchen" for name in ("project", "context"))
        with ThreadPoolExecutor(1) as beside:
            getting = beside.submit(base_image, engine)
            ingested(project)
            tidemill("build", "--project", str(project), "--to", str(context), "--wheels")
            base, network = getting.result()
        assert f"\nARG BASE={WANTED}\n" in (context / "Dockerfile").read_text()
        engine.run("build", "--network", network, "--build-arg", f"BASE={base}", "-t", "kitchen:1", str(context))
        platform = Platform.open(project)
        own = asyncio.run(asked(platform, body("own"))).json()
        platform.close()
        yield Built(engine, own["outputs"][0]["data"][0])


def body(name: str) -> bytes:
    return json.dumps({"id": name, "inputs": INPUTS}).encode()


def test_what_the_image_says(built: Built) -> None:
    config = json.loads(built.engine.out("inspect", "--format", "{{json .Config}}", built.tag))
    assert (config["User"], config["StopSignal"], list(config["Volumes"]), list(config["ExposedPorts"])) == (
        "10001:10001", "SIGTERM", ["/state"], ["8401/tcp"],
    )  # fmt: skip
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Entrypoint"][-1] == "/app"
    assert config["Cmd"][0] == "serve"


def test_as_it_is(built: Built) -> None:
    """Its own command, no network at all: it becomes healthy, answers as the project does, and is not root."""
    name = built.start("--network", "none")
    built.healthy(name)
    answer = json.loads(built.engine.out("exec", name, "python", "-c", INSIDE, body("inside").decode(), json.dumps(HEADERS)))
    np.testing.assert_allclose(answer["outputs"][0]["data"], [built.score], rtol=5e-16)
    assert (answer["model_version"], answer["parameters"]["logged"]) == ("1", True)
    status = Path(f"/proc/{built.state(name)['Pid']}/status").read_text()
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE), status
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE), status
    built.stop(name)


class Clients:
    """Ask over kept connections until the server is gone; keep what was answered."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.port, self.answers, self.refused = port, dict[str, Any](), list[str]()
        self.threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        for count in range(1_000_000):
            name = f"ask-{number}-{count}"
            try:
                connection.request("POST", PATH, body(name), HEADERS)
                reply = connection.getresponse()
                text = reply.read()
            except (OSError, http.client.HTTPException):
                return
            if reply.status != 200:
                self.refused.append(text.decode())
            else:
                self.answers[name] = json.loads(text)


def test_another_command_guarded_on_a_volume_and_a_stop_under_load(built: Built) -> None:
    """CMD is replaced (another port: its health check follows), ENTRYPOINT stays; the root file system is read-only, the state a volume."""
    port = free_port()
    command = ("serve", "--host", "127.0.0.1", "--port", str(port))
    words = ["--network", "host", "-v", "guarded:/state", *GUARDED]
    name = built.start(*words, command=command)
    built.healthy(name)
    clients = Clients(port)
    while len(clients.answers) < 200 and not clients.refused:
        time.sleep(0.02)
    built.stop(name)
    for thread in clients.threads:
        thread.join()
    assert clients.refused == []
    scores = [answer["outputs"][0]["data"][0] for answer in clients.answers.values()]
    np.testing.assert_allclose(scores, np.full(len(scores), built.score), rtol=5e-16)
    assert sorted(built.logged("guarded")) == sorted(clients.answers), "what was taken was answered, what was answered is kept"
    said = built.logs(name)
    assert "Traceback" not in said
    assert "telemetry" not in said
    second = built.start(*words, command=command)
    built.healthy(second)
    built.stop(second)
    assert sorted(built.logged("guarded")) == sorted(clients.answers)


def test_a_stop_while_it_starts(built: Built) -> None:
    name = built.start("--network", "none")
    for _ in range(1000):
        if b"tidemill.cli.image" in Path(f"/proc/{built.state(name)['Pid']}/cmdline").read_bytes():
            break
        time.sleep(0.01)
    time.sleep(0.5)
    assert built.state(name)["Health"]["Status"] == "starting"
    built.stop(name)


def test_nothing_to_ask_is_not_healthy(built: Built) -> None:
    done = built.engine.run("run", "--rm", "--network", "none", built.tag, "health", ok=1)
    assert "not ready: " in done.stderr, done.stderr

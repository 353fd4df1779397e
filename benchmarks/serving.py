"""Requests per second of one worker: LightGBM of 200 trees and 20 features, every prediction durably logged.

    python benchmarks/serving.py --json [--quick]

Side by side in one run: the floor (Granian answering a constant), Tidemill with prediction logging on (fsync before the answer says
`logged`), and a hand-written FastAPI + uvicorn + LightGBM application that logs nothing, in a virtual environment of its own that
this script makes. Needs `wrk`. Points: c1 and c32 are connections with one row a request, b64 is 8 connections with 64 rows a request.
All servers run at once and are asked in turns, so a change of the machine's load meets all of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import kit
import servers
from servers import free_port, started

HERE = Path(__file__).resolve().parent
FLOOR = "granian-constant"
PEER_NEEDS = ["fastapi", "uvicorn[standard]", "lightgbm", "numpy"]
FEATURES = [f"f{i}" for i in range(20)]
POINTS = {"c1": (1, 1), "c32": (32, 1), "b64": (8, 64)}


def make_model(home: Path) -> None:
    """Train the model once; write its native file, Tidemill's package of it, request bodies and the right answers."""
    import lightgbm
    import numpy as np

    from tidemill.training.package import pack_model
    from tidemill.training.ports import Model

    rng = np.random.default_rng(11)
    x = rng.normal(size=(20_000, 20))
    y = (x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] ** 2 + rng.normal(0, 0.7, 20_000) > 0.5).astype(float)
    params = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "verbose": -1, "seed": 11, "deterministic": True}
    booster = lightgbm.train(params, lightgbm.Dataset(x, y), 200)
    booster.save_model(home / "model.txt")
    rows = np.round(rng.normal(size=(64, 20)), 4)
    (home / "package").mkdir()
    native = (home / "model.txt").read_bytes()
    pack_model(Model("lightgbm", native, tuple(FEATURES), {}, meta={"example": rows[:2].tolist()}), home / "package")
    (home / "expected.json").write_text(json.dumps(booster.predict(rows).tolist()))
    for n in (1, 64):
        tensor = {"name": "x", "datatype": "FP64", "shape": [n, 20], "data": rows[:n].ravel().tolist()}
        (home / f"tidemill-{n}.json").write_text(json.dumps({"inputs": [tensor]}, separators=(",", ":")))
        (home / f"peer-{n}.json").write_text(json.dumps({"rows": rows[:n].tolist()}, separators=(",", ":")))


class Nothing:
    """A feature reader for a service whose requests carry all inputs."""

    def read(self, _views: Any, keys: Any, _at_us: int) -> list[dict[str, Any]]:
        return [{} for _ in keys]


def serve_tidemill(home: Path, port: int) -> None:
    from tidemill.core.clock import WallClock
    from tidemill.core.definitions import Label, Service, Table
    from tidemill.ledger import schema
    from tidemill.ledger.store import Ledger
    from tidemill.registry.embedded import LedgerRegistry
    from tidemill.serving import Scorer, Tokens, compile_plan
    from tidemill.serving.embedded import LedgerRouter, OnnxRuntime, SqlitePredictionLog
    from tidemill.serving.run import serve
    from tidemill.serving.server import build_app
    from tidemill.versioning.embedded import FileBlobStore

    ledger, clock = Ledger(f"sqlite:///{home}/ledger.db"), WallClock()
    blobs = FileBlobStore(home / "blobs")
    registry = LedgerRegistry(ledger, blobs)
    made = registry.register("bench", blobs.put(home / "package"), run_id="bench", metrics={}, meta={}, at_us=1)
    with ledger.write() as db:
        row = {"id": "live", "service": "bench", "model": "bench", "version": made.version, "role": "live", "weight": 1.0, "stage": 0}
        db.execute(schema.deployment.insert().values(**row, decision_id="bench", since_us=1, started_us=1))
    tokens = Tokens(ledger, clock)
    (home / "token").write_text(tokens.make("bench"))
    table = Table("rows", "files:rows", event_time="at", known_time="at")
    service = Service("bench", features=FEATURES, label=Label("y", table, "y > 0", key="id"), spine=table, key="id")
    log = SqlitePredictionLog(home / "predictions.db", ahead=True)
    scorer = Scorer(service, compile_plan(service, Nothing()), LedgerRouter(ledger), OnnxRuntime(), registry, blobs, log)
    serve(build_app({"bench": scorer}, tokens, clock=clock), port=port)


def serve_floor(_home: Path, port: int) -> None:
    import asyncio

    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def constant(_scope: Any, http: Any) -> None:
        await http()
        http.response_bytes(200, [("content-type", "application/json")], b'{"scores":[0.5]}')

    async def run() -> None:
        await Server(constant, address="127.0.0.1", port=port, interface=Interfaces.RSGI, log_enabled=False).serve()

    asyncio.run(run())


def peer_version(python: Path) -> str:
    code = "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in ('fastapi', 'uvicorn', 'lightgbm')), sep=', ')"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


class Tool:
    """A running server and how it is asked."""

    def __init__(self, name: str, url: str, bodies: str, *, token: str = "", version: str = "") -> None:
        self.name, self.url, self.bodies, self.token = name, url, bodies, token
        self.facts = {"version": version} if version else {}
        self.p99_ms: list[float] = []

    def check(self, home: Path) -> None:
        """Its answers must be the model's."""
        if self.name == FLOOR:
            return
        request = urllib.request.Request(self.url, (home / f"{self.bodies}-64.json").read_bytes(), {"Content-Type": "application/json"})
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=20) as reply:
            answer = json.load(reply)
        got = answer["scores"] if "scores" in answer else answer["outputs"][0]["data"]
        if "parameters" in answer and answer["parameters"]["logged"] is not True:
            raise RuntimeError(f"{self.name} does not log: {answer['parameters']}")
        want = json.loads((home / "expected.json").read_text())
        worst = max(abs(a - b) for a, b in zip(got, want, strict=True))
        if worst > 1e-5:
            raise RuntimeError(f"{self.name} differs from the model by {worst}")

    def ask(self, home: Path, point: str, seconds: float) -> float:
        """Requests per second over `seconds`."""
        connections, rows = POINTS[point]
        body = home / f"{self.bodies}-{rows}.json"
        load = servers.ask(self.url, body, connections=connections, seconds=seconds, token=self.token)
        self.p99_ms.append(load.p99_ms)
        return load.rate


def measure(home: Path, seconds: float, repetitions: int) -> None:
    ports = [free_port() for _ in range(3)]
    itself = [sys.executable, str(Path(__file__).resolve()), "--home", str(home)]
    with ExitStack() as stack:
        stack.enter_context(started([*itself, "--serve", "floor", "--port", str(ports[0])], ports[0], home / "floor.log"))
        stack.enter_context(started([*itself, "--serve", "tidemill", "--port", str(ports[1])], ports[1], home / "tidemill.log"))
        tools = [
            Tool(FLOOR, f"http://127.0.0.1:{ports[0]}/", "tidemill"),
            Tool(kit.OURS, f"http://127.0.0.1:{ports[1]}/v2/models/bench/infer", "tidemill", token=(home / "token").read_text()),
        ]
        python = kit.peer_python("fastapi", *PEER_NEEDS)
        if python is not None:
            command = [str(python), "-m", "uvicorn", "fastapi_lightgbm:app", "--port", str(ports[2]), "--log-level", "warning"]
            where = ["--app-dir", str(HERE / "peers")]
            stack.enter_context(started([*command, *where], ports[2], home / "peer.log", BENCH_MODEL=str(home / "model.txt")))
            for name, path in (("fastapi", "predict"), ("fastapi-async", "predict-async")):
                tools.append(Tool(name, f"http://127.0.0.1:{ports[2]}/{path}", "peer", version=peer_version(python)))
        for tool in tools:
            tool.check(home)
            tool.ask(home, "c32", 1)
        for point in POINTS:
            for tool in tools:
                tool.p99_ms.clear()
            rates = kit.interleave({tool.name: partial(tool.ask, home, point, seconds) for tool in tools}, repetitions)
            extra = {tool.name: {"p99_ms": statistics.median(tool.p99_ms), **tool.facts} for tool in tools}
            kit.report(f"serve-{point}", rates, "requests/s", floor=FLOOR, better="higher", extra=extra)


def main() -> None:
    if "--serve" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--serve", choices=["tidemill", "floor"])
        parser.add_argument("--home", type=Path)
        parser.add_argument("--port", type=int)
        given = parser.parse_args()
        {"tidemill": serve_tidemill, "floor": serve_floor}[given.serve](given.home, given.port)
        return
    options = kit.arguments(__doc__ or "")
    servers.need("wrk")
    kit.machine("tidemill", "granian", "onnxruntime", "lightgbm")
    with kit.scratch() as home:
        make_model(home)
        measure(home, 2 if options.quick else 5, 3 if options.quick else 5)


if __name__ == "__main__":
    main()

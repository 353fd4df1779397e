"""Requests per second of one worker: LightGBM of 200 trees and 20 features, every prediction durably logged.

    python benchmarks/serving.py --json [--quick]

Side by side in one run, all servers running at once and asked in turns, so that a change of the machine's load meets all of them:

    granian-constant   Granian answering a constant: what HTTP costs
    floor-onnx         Granian, one decoder, ONNX Runtime and nothing else: no checks, no ids, no log
    tidemill           with the prediction log on: fsync before the answer says `logged`
    tidemill-written   the same with `serving.log_sync=false`: written before the answer says so, no fsync
    tidemill-numba, tidemill-numba-written   the same two with `stack.runtime=numba:local`: trees compiled for the machine
    …-lookup           the same model with ten of its features looked up by key in the embedded online store (50,000 keys)
    fastapi, fastapi-async, mlserver   in virtual environments of their own that this script makes; they log nothing

Tasks: requests_c1 and requests_c32 (connections, one row a request), batch_64 (8 connections, 64 rows a request), requests_c32_features
(…-lookup). Each tool is asked for 30 seconds, in five turns. MLServer serves in one process (`parallel_workers` 0). Needs `wrk`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import kit
import servers
from servers import free_port, started

HERE = Path(__file__).resolve().parent
CONSTANT, FLOOR = "granian-constant", "floor-onnx"
PEER_NEEDS = ["fastapi", "uvicorn[standard]", "lightgbm", "numpy"]
MLSERVER_NEEDS = ["mlserver==1.7.1", "mlserver-lightgbm==1.7.1", "fastapi<0.116", "lightgbm>=4.5", "uvloop<0.22"]
FEATURES = [f"f{i}" for i in range(20)]
LOOKED_UP, KEYS = 10, 50_000
POINTS = {"requests_c1": (1, 1), "requests_c32": (32, 1), "batch_64": (8, 64)}
COMPILED, WRITTEN, LOOKUP = "-numba", "-written", "-lookup"
VARIANTS = [f"{kit.OURS}{trees}{log}" for trees in ("", COMPILED) for log in ("", WRITTEN)]
"""Our server by how it scores and logs; the names say which."""


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
    native = (home / "model.txt").read_bytes()
    looked_up = [*FEATURES[:LOOKED_UP], *(f"facts__m{i}" for i in range(LOOKED_UP))]
    for package, names in (("package", FEATURES), ("package-lookup", looked_up)):
        (home / package).mkdir()
        pack_model(Model("lightgbm", native, tuple(names), {}, meta={"example": rows[:2].tolist()}), home / package)
    (home / "expected.json").write_text(json.dumps(booster.predict(rows).tolist()))
    for n in (1, 64):
        tensor = {"name": "x", "datatype": "FP64", "shape": [n, 20], "data": rows[:n].ravel().tolist()}
        (home / f"tidemill-{n}.json").write_text(json.dumps({"inputs": [tensor]}, separators=(",", ":")))
        (home / f"peer-{n}.json").write_text(json.dumps({"rows": rows[:n].tolist()}, separators=(",", ":")))
    _write_lookup(home, rows[0].tolist(), rng)
    served = {
        "name": "m",
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(home / "model.bst"), "version": "1"},
    }
    booster.save_model(home / "model.bst")
    (home / "mlserver" / "m").mkdir(parents=True)
    (home / "mlserver" / "m" / "model-settings.json").write_text(json.dumps(served))


def _write_lookup(home: Path, row: list[float], rng: Any) -> None:
    """Requests of a thousand keys, a line each: the first ten columns are sent, the others have to be found."""
    lines = []
    for key in rng.integers(0, KEYS, 1_000).tolist():
        columns = [{"name": f"f{i}", "datatype": "FP64", "shape": [1], "data": [row[i]]} for i in range(LOOKED_UP)]
        lines.append(
            json.dumps({"inputs": [{"name": "key", "datatype": "INT64", "shape": [1], "data": [key]}, *columns]}, separators=(",", ":"))
        )
    (home / "lookup-1.json").write_text("\n".join(lines))


class Nothing:
    """A feature reader for a service whose requests carry all inputs."""

    def read(self, _views: Any, keys: Any, _at_us: int) -> list[dict[str, Any]]:
        return [{} for _ in keys]


def syncs(variant: str) -> bool:
    """Whether answers of a variant wait for the disk."""
    return not variant.endswith(WRITTEN)


def runtime_of(variant: str) -> Any:
    """What a variant scores with."""
    from tidemill.adapters.numba.serving import compiled
    from tidemill.serving.embedded import OnnxRuntime

    return OnnxRuntime(trees=compiled) if COMPILED in variant else OnnxRuntime()


def serve_tidemill(home: Path, port: int, grpc_port: int | None = None, *, variant: str = kit.OURS) -> None:
    """The server with what a variant's name says, in a folder of that name."""
    from tidemill.core.clock import WallClock
    from tidemill.core.definitions import Label, Service, Table
    from tidemill.serving import Scorer, Tokens, compile_plan
    from tidemill.serving.embedded import LedgerRouter, SqlitePredictionLog
    from tidemill.serving.http import Settings
    from tidemill.serving.run import serve
    from tidemill.serving.server import build_app

    clock, own, sync = WallClock(), home / variant, syncs(variant)
    own.mkdir()
    ledger, registry, blobs = _deployed(home, own)
    tokens = Tokens(ledger, clock)
    (own / "token").write_text(tokens.make("bench"))
    table = Table("rows", "files:rows", event_time="at", known_time="at")
    label = Label("y", table, "y > 0", key="id")
    view, reader = _filled(own, clock.now_us())
    services = {
        "bench": (Service("bench", features=FEATURES, label=label, spine=table, key="id"), Nothing()),
        "lookup": (Service("lookup", features=[*FEATURES[:LOOKED_UP], view], label=label, spine=table, key="id"), reader),
    }
    log = SqlitePredictionLog(own / "predictions.db", ahead=True, sync=sync)
    router, runtime = LedgerRouter(ledger), runtime_of(variant)
    scorers = {n: Scorer(service, compile_plan(service, r), router, runtime, registry, blobs, log) for n, (service, r) in services.items()}
    app = build_app(scorers, tokens, clock=clock, settings=Settings(log_sync=sync))
    if grpc_port is not None:
        from tidemill.adapters.grpc.serving import open_grpc

        app.beside.append(open_grpc(app, "127.0.0.1", grpc_port))
    serve(app, port=port)


def _deployed(home: Path, own: Path) -> tuple[Any, Any, Any]:
    """A ledger with the model live behind both services, in the server's own folder."""
    from tidemill.ledger import schema
    from tidemill.ledger.store import Ledger
    from tidemill.registry.embedded import LedgerRegistry
    from tidemill.versioning.embedded import FileBlobStore

    ledger, blobs = Ledger(f"sqlite:///{own}/ledger.db"), FileBlobStore(own / "blobs")
    registry = LedgerRegistry(ledger, blobs)
    for name, package in (("bench", "package"), ("lookup", "package-lookup")):
        made = registry.register(name, blobs.put(home / package), run_id="bench", metrics={}, meta={}, at_us=1)
        with ledger.write() as db:
            row = {"id": f"live-{name}", "service": name, "model": name, "version": made.version, "role": "live", "weight": 1.0, "stage": 0}
            db.execute(schema.deployment.insert().values(**row, decision_id="bench", since_us=1, started_us=1))
    return ledger, registry, blobs


def _filled(home: Path, now_us: int) -> tuple[Any, Any]:
    """A view of ten features whose newest values are in the online store, and a reader of it as a server has one."""
    import numpy as np
    import pyarrow as pa

    from tidemill.core.aggregates import latest
    from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
    from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor

    values = np.random.default_rng(12).normal(size=(KEYS, LOOKED_UP))
    at = pa.array(np.full(KEYS, now_us - 3_600_000_000), pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns = {f"m{i}": values[:, i] for i in range(LOOKED_UP)}
    table = Table("facts", "files:facts", event_time="at", known_time="at", key="key")
    view = FeatureView("facts", Entity("key"), table, [latest(*columns, ttl="3650d")])
    definitions = Definitions(views={"facts": view})
    store = SqliteOnlineStore(home / "online.db")
    processor = ViewProcessor(store, definitions)
    processor.advance(now_us)
    processor.push("facts", pa.table({"key": np.arange(KEYS), "at": at, **columns}))
    processor.commit()
    return view, OnlineReader(store, definitions)


def serve_onnx(home: Path, port: int) -> None:
    """What a real server cannot do without: read the request, score it, write the answer."""
    import msgspec
    import numpy as np
    import onnxruntime as ort

    class Tensor(msgspec.Struct):
        shape: list[int]
        data: list[float]

    class Body(msgspec.Struct):
        inputs: list[Tensor]

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(home / "package" / "model.onnx", options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, [session.get_outputs()[-1].name]
    kind = np.float32 if session.get_inputs()[0].type == "tensor(float)" else np.float64
    decode, encode = msgspec.json.Decoder(Body).decode, msgspec.json.Encoder().encode

    async def answer(_scope: Any, http: Any) -> None:
        tensor = decode(await http()).inputs[0]
        scores = session.run(wanted, {name: np.array(tensor.data, dtype=kind).reshape(tensor.shape)})[0][:, -1]
        http.response_bytes(200, [("content-type", "application/json")], encode({"scores": scores.tolist()}))

    listen(answer, port)


def serve_constant(_home: Path, port: int) -> None:
    async def constant(_scope: Any, http: Any) -> None:
        await http()
        http.response_bytes(200, [("content-type", "application/json")], b'{"scores":[0.5]}')

    listen(constant, port)


def listen(app: Any, port: int) -> None:
    """Granian in this process with an RSGI application and nothing else."""
    import asyncio

    import uvloop
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def run() -> None:
        await Server(app, address="127.0.0.1", port=port, interface=Interfaces.RSGI, log_enabled=False).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


SERVERS: dict[str, Callable[[Path, int], None]] = {
    "constant": serve_constant,
    "onnx": serve_onnx,
    **{variant: partial(serve_tidemill, variant=variant) for variant in VARIANTS},
}


def peer_version(python: Path, *packages: str) -> str:
    code = f"from importlib.metadata import version as v; print(*(f'{{n}} {{v(n)}}' for n in {packages!r}), sep=', ')"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


class Tool:
    """A running server and how it is asked."""

    def __init__(self, name: str, url: str, bodies: str, *, token: str = "", version: str = "") -> None:
        self.name, self.url, self.bodies, self.token = name, url, bodies, token
        self.facts = {"version": version} if version else {}
        self.p99_ms: list[float] = []

    def check(self, home: Path) -> None:
        """Its answers must be the model's."""
        if self.name == CONSTANT or self.name.endswith(LOOKUP):
            return
        request = urllib.request.Request(self.url, (home / f"{self.bodies}-64.json").read_bytes(), {"Content-Type": "application/json"})
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=20) as reply:
            answer = json.load(reply)
        got = answer["scores"] if "scores" in answer else answer["outputs"][0]["data"]
        if kit.is_ours(self.name) and answer["parameters"]["logged"] != (True if syncs(self.name) else "written"):
            raise RuntimeError(f"{self.name} does not log: {answer['parameters']}")
        want = json.loads((home / "expected.json").read_text())
        worst = max(abs(a - b) for a, b in zip(got, want, strict=True))
        if worst > 1e-5:
            raise RuntimeError(f"{self.name} differs from the model by {worst}")

    def wait(self, home: Path) -> None:
        """Until it has loaded its model: it listens before."""
        for _ in range(300):
            try:
                self.check(home)
                return
            except (OSError, RuntimeError):
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} does not answer")

    def ask(self, home: Path, point: str, seconds: float) -> float:
        """Requests per second over `seconds`."""
        connections, rows = POINTS[point]
        body = home / f"{self.bodies}-{rows}.json"
        load = servers.ask(self.url, body, connections=connections, seconds=seconds, token=self.token)
        self.p99_ms.append(load.p99_ms)
        return load.rate


def measure(home: Path, seconds: float, repetitions: int) -> None:
    with ExitStack() as stack:
        tools = _tools(home, stack)
        for tool in tools:
            tool.check(home)
            tool.ask(home, "requests_c32", 1)
        looking_up = [t for t in tools if t.name.endswith(LOOKUP)]
        for point in POINTS:
            _report(home, point, point, [t for t in tools if t not in looking_up], seconds, repetitions)
        beside = [t for t in tools if t.name in (FLOOR, "mlserver")]
        _report(home, "requests_c32_features", "requests_c32", [*looking_up, *beside], seconds, repetitions)


def _report(home: Path, task: str, point: str, tools: list[Tool], seconds: float, repetitions: int) -> None:
    for tool in tools:
        tool.p99_ms.clear()
    rates = kit.interleave({tool.name: partial(tool.ask, home, point, seconds) for tool in tools}, repetitions)
    extra = {tool.name: {"p99_ms": statistics.median(tool.p99_ms), **tool.facts} for tool in tools}
    kit.report(
        task, rates, "requests/s", floor={t.name: FLOOR for t in tools if t.name != CONSTANT} | {"": CONSTANT}, better="higher", extra=extra
    )


def _tools(home: Path, stack: ExitStack) -> list[Tool]:
    """All servers, started."""
    itself = [sys.executable, str(Path(__file__).resolve()), "--home", str(home)]
    at: dict[str, str] = {}
    for name in SERVERS:
        port = free_port()
        at[name] = f"http://127.0.0.1:{port}"
        stack.enter_context(started([*itself, "--serve", name, "--port", str(port)], port, home / f"{name}.log"))
    tools = [Tool(CONSTANT, f"{at['constant']}/", "tidemill"), Tool(FLOOR, f"{at['onnx']}/", "tidemill")]
    for name in VARIANTS:
        token = (home / name / "token").read_text()
        tools.append(Tool(name, f"{at[name]}/v2/models/bench/infer", "tidemill", token=token))
        tools.append(Tool(name + LOOKUP, f"{at[name]}/v2/models/lookup/infer", "lookup", token=token))
    return tools + _fastapi(home, stack) + _mlserver(home, stack)


def _fastapi(home: Path, stack: ExitStack) -> list[Tool]:
    python = kit.peer_python("fastapi", *PEER_NEEDS)
    if python is None:
        return []
    port, where = free_port(), ["--app-dir", str(HERE / "peers")]
    command = [str(python), "-m", "uvicorn", "fastapi_lightgbm:app", "--port", str(port), "--log-level", "warning", *where]
    stack.enter_context(started(command, port, home / "fastapi.log", BENCH_MODEL=str(home / "model.txt")))
    version = peer_version(python, "fastapi", "uvicorn", "lightgbm")
    both = (("fastapi", "predict"), ("fastapi-async", "predict-async"))
    return [Tool(name, f"http://127.0.0.1:{port}/{path}", "peer", version=version) for name, path in both]


def _mlserver(home: Path, stack: ExitStack) -> list[Tool]:
    python = kit.peer_python("mlserver", *MLSERVER_NEEDS)
    if python is None:
        return []
    port = free_port()
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
    (home / "mlserver" / "settings.json").write_text(json.dumps(settings))
    stack.enter_context(started([str(python.parent / "mlserver"), "start", str(home / "mlserver")], port, home / "mlserver.log"))
    tool = Tool("mlserver", f"http://127.0.0.1:{port}/v2/models/m/infer", "tidemill", version=peer_version(python, "mlserver"))
    tool.wait(home)
    return [tool]


def main() -> None:
    if "--serve" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--serve", choices=list(SERVERS))
        parser.add_argument("--home", type=Path)
        parser.add_argument("--port", type=int)
        given = parser.parse_args()
        SERVERS[given.serve](given.home, given.port)
        return
    options = kit.arguments(__doc__ or "")
    servers.need("wrk")
    kit.machine("tidemill", "granian", "onnxruntime", "lightgbm", "numba")
    with kit.scratch() as home:
        make_model(home)
        measure(home, 2 if options.quick else 6, 3 if options.quick else 5)


if __name__ == "__main__":
    main()

"""A service about to be served: flights looked up by origin, with real ledger, blobs, models and prediction log."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import httpx
import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from tidemill.core.aggregates import latest
from tidemill.core.clock import ReplayClock, WallClock
from tidemill.core.definitions import Entity, FeatureView, Label, Service, Table, on_demand
from tidemill.core.errors import not_found
from tidemill.features import apply_on_demand
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.serving import Plan, Scorer, Tokens, compile_plan, scorer_for
from tidemill.serving.embedded import LedgerRouter, OnnxRuntime, SqlitePredictionLog
from tidemill.serving.http import Settings
from tidemill.serving.ports import PredictionLog
from tidemill.serving.server import ModelServer, build_app
from tidemill.serving.tls import Tls
from tidemill.testing.models import write_linear_model
from tidemill.versioning.embedded import FileBlobStore

FLIGHTS = Table("flights", "files:flights", event_time="scheduled_at", known_time="filed_at")
WEATHER = Table("weather", "files:weather", event_time="observed_at", known_time="published_at")
SKY = FeatureView("sky", Entity("origin"), WEATHER, [latest("wind", "cover", ttl="6h")])


@on_demand
def hour(scheduled_at: Any) -> Any:
    return scheduled_at.astype("M8[h]").astype(np.int64) % 24


@on_demand
def gust(sky__wind: Any, factor: Any) -> Any:
    return sky__wind * factor


LATE = Service(
    "late", features=[SKY, "carrier", hour, gust], label=Label("late", FLIGHTS, "x > 1", key="flight"), spine=FLIGHTS, key="flight"
)
COLUMNS = ("sky__wind", "sky__cover", "carrier", "hour", "gust")
CATEGORIES = {"sky__cover": ["clear", "cloudy"], "carrier": ["AA", "UA"]}
LOOKUP = {"origin": "JFK", "carrier": "UA", "scheduled_at": "2013-01-01T17:30:00Z", "factor": 2.0}
FULL = {"sky__wind": 3.0, "sky__cover": "cloudy", "carrier": "UA", "hour": 17.0, "gust": 6.0}


class Sky:
    """A `FeatureReader` that knows the weather of some airports, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.known: dict[str, dict[str, Any]] = {"JFK": {"sky__wind": 3.0, "sky__cover": "cloudy"}}

    def push(self, table: str, rows: pa.Table) -> int:
        return int(rows.num_rows)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        self.asked.append((len(keys), at_us))
        names = [name for view in views for name in view.columns]
        return [{**dict.fromkeys(names), **self.known.get(key["origin"], {})} for key in keys]

    def commit(self) -> None:
        pass


class Registry:
    """Versions as the ledger has them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def get(self, name: str, version: int | str) -> ModelVersion:
        table, alias = schema.model_version, schema.model_alias
        with self.ledger.read() as db:
            if isinstance(version, str):
                version = db.execute(sa.select(alias.c.version).where(alias.c.name == name, alias.c.alias == version)).scalar() or 0
            row = db.execute(sa.select(table.c.digest, table.c.meta).where(table.c.name == name, table.c.version == version)).first()
        if row is None:
            raise not_found("model version", str(version), [])
        return ModelVersion(name, version, str(row[0]), "run", "registered", 1, meta=json.loads(row[1]))


class Stack:
    """Everything a scorer needs, in one folder."""

    def __init__(self, home: Path, service: Service = LATE, log: PredictionLog | None = None, ledger: Ledger | None = None) -> None:
        self.home = home
        self.service = service
        self.ledger = ledger or Ledger(f"sqlite:///{home}/ledger.db")
        self.blobs = FileBlobStore(home / "blobs")
        self.processor = Sky()
        self.clock = ReplayClock(1_357_057_800_000_000)
        self.log = log or SqlitePredictionLog(home / "predictions.db")
        self.tokens = Tokens(self.ledger, self.clock)

    @classmethod
    def of(cls, home: Path, **roles: int) -> Self:
        """With the versions that have a role, each deployed in it: `Stack.of(home, live=1, shadow=2)`."""
        made = cls(home)
        for version in roles.values():
            made.add(version)
        made.deploy(**roles)
        return made

    def plan(self) -> Plan:
        return compile_plan(self.service, self.processor, apply_on_demand)

    def scorer(self) -> Scorer:
        registry = cast("ModelRegistry", Registry(self.ledger))
        return scorer_for(self.service, self.plan(), LedgerRouter(self.ledger), OnnxRuntime(), registry, self.blobs, self.log)

    def add(self, version: int, *, bias: float | None = None, folder: Path | None = None) -> str:
        """Register a version that scores by its bias alone (default: its number), unless a folder is given."""
        weights = dict.fromkeys(self.service.columns, 0.0)
        categories = {name: CATEGORIES[name] for name in weights if name in CATEGORIES}
        made = folder or write_linear_model(
            self.home / f"model-{version}", weights, bias=float(version) if bias is None else bias, categories=categories
        )
        digest = self.blobs.put(made)
        with self.ledger.write() as db:
            row = {"name": self.service.name, "version": version, "digest": digest, "run_id": f"run-{version}", "status": "registered"}
            insert_once(db, schema.model_version, {**row, "metrics": "{}", "meta": "{}", "at_us": version})
        return digest

    def alias(self, name: str, version: int) -> None:
        """Point an alias at a version."""
        with self.ledger.write() as db:
            where = {"name": self.service.name, "alias": name, "version": version, "decision_id": "decision", "at_us": version}
            insert_once(db, schema.model_alias, where)

    def deploy(self, **roles: int | tuple[int, float]) -> None:
        """Replace the deployments: `deploy(live=1, canary=(2, 0.5), shadow=3)`."""
        with self.ledger.write() as db:
            db.execute(sa.delete(schema.deployment))
            for role, what in roles.items():
                version, weight = what if isinstance(what, tuple) else (what, 1.0 if role == "live" else 0.0)
                where = {"id": f"{role}-{version}", "service": self.service.name, "model": self.service.name, "version": version}
                rest = {"role": role, "weight": weight, "stage": 0, "decision_id": "decision", "since_us": version, "started_us": version}
                insert_once(db, schema.deployment, {**where, **rest})


def tensors(values: dict[str, Any], rows: int = 1) -> list[dict[str, Any]]:
    kinds = {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64"}
    return [{"name": n, "datatype": kinds[type(v)], "shape": [rows], "data": [v] * rows} for n, v in values.items()]


def body(values: dict[str, Any], rows: int = 1, **more: Any) -> bytes:
    return json.dumps({"inputs": tensors(values, rows), **more}).encode()


def sigmoid(z: float) -> float:
    return 1 / (1 + float(np.exp(-z)))


class Reply:
    """Granian's side of one request, in memory."""

    def __init__(self, body: bytes = b"", pieces: int = 1) -> None:
        self.body, self.status, self.answer, self.pieces, self.read = body, 0, b"", pieces, 0
        self.headers: list[tuple[str, str]] = []

    async def __call__(self) -> bytes:
        self.read = len(self.body)
        return self.body

    async def __aiter__(self) -> Any:
        size = -(-len(self.body) // self.pieces) or 1
        for start in range(0, len(self.body), size):
            self.read += size
            yield self.body[start : start + size]

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert not self.status, "answered twice"
        self.status, self.answer, self.headers = status, body, headers

    def json(self) -> Any:
        return httpx.Response(self.status, content=self.answer).json()


class Scope:
    """What Granian says about a request."""

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method, self.path, self.headers = method, path, headers


class Local:
    """A `ModelServer` called in this process, without a network."""

    def __init__(
        self,
        stack: Stack,
        *others: Stack,
        token: bool = False,
        feedback: Any = None,
        hooks: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.stack = stack
        self.scorer = stack.scorer()
        tokens = stack.tokens if token else None
        scorers = {stack.service.name: self.scorer} | {other.service.name: other.scorer() for other in others}
        self.app: ModelServer = build_app(
            scorers, tokens, clock=stack.clock, settings=Settings(**settings), feedback=feedback, **(hooks or {})
        )

    async def __aenter__(self) -> Self:
        self.app.__rsgi_init__(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.app.close)

    async def ask(self, method: str, path: str, body: bytes = b"", pieces: int = 1, **headers: str) -> Reply:
        reply = Reply(body, pieces)
        sent = {"content-length": str(len(body))} if pieces == 1 else {}
        await self.app.__rsgi__(Scope(method, path, {**sent, **headers}), reply)
        return reply

    async def infer(self, body: bytes, path: str = "/v2/models/late/infer", **headers: str) -> Reply:
        return await self.ask("POST", path, body, 1, **headers)


def run(stack: Stack, script: Callable[[Local], Any], *others: Stack, **settings: Any) -> Any:
    """What a script gets from a server in this process."""

    async def go() -> Any:
        async with Local(stack, *others, **settings) as local:
            return await script(local)

    return asyncio.run(go())


def app_from_environment() -> ModelServer:
    """The factory that server processes under test are started with."""
    home, sync = Path(os.environ["SERVING_KIT_HOME"]), os.environ.get("SERVING_KIT_SYNC") != "no"
    stack = Stack(home, log=SqlitePredictionLog(home / "predictions.db", ahead=True, sync=sync))
    body_s, head_s = (float(os.environ.get(f"SERVING_KIT_{name}", "60")) for name in ("BODY_S", "HEAD_S"))
    settings = Settings(poll_s=0.1, log_sync=sync, tls=_tls(), tls_look_s=0.3, tls_retire_s=1.5, body_s=body_s, head_s=head_s)
    app = build_app({"late": stack.scorer()}, Tokens(stack.ledger, WallClock()), clock=WallClock(), settings=settings)
    if "SERVING_KIT_GRPC" in os.environ:
        from tidemill.adapters.grpc.serving import open_grpc

        app.beside.append(open_grpc(app, "127.0.0.1", int(os.environ["SERVING_KIT_GRPC"])))
    return app


def _tls() -> Tls | None:
    folder = os.environ.get("SERVING_KIT_TLS")
    return Tls(Path(folder) / "cert.pem", Path(folder) / "key.pem") if folder else None


FACTORY = "tests.support.serving_kit:app_from_environment"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    home: Path, port: int, workers: int = 1, grpc_port: int | None = None, tls: Path | None = None, factory: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process on `port`, ready; killed at the end if it still runs. `tls`: a folder with cert.pem, key.pem and ca.pem."""
    code = f"from tidemill.serving.run import run; run({factory or FACTORY!r}, port={port}, workers={workers})"
    environment = {**os.environ, "SERVING_KIT_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {} if grpc_port is None else {"SERVING_KIT_GRPC": str(grpc_port)}
    environment |= {} if tls is None else {"SERVING_KIT_TLS": str(tls)}
    where = "http" if tls is None else "https"
    trusted = ssl.create_default_context(cafile=None if tls is None else str(tls / "ca.pem"))
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(2400):
            if process.poll() is not None:
                raise AssertionError((home / "server.log").read_text())
            try:
                if httpx.get(f"{where}://127.0.0.1:{port}/v2/health/ready", verify=trusted).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        else:
            raise AssertionError("not ready: " + (home / "server.log").read_text())
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()

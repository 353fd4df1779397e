"""http_1 and http_16: requests a second of `POST /get-online-features` for one key of three views, one worker, 1 and 16 connections.

All servers run at once and are asked in turns. Feast is served without its restarts after a thousand requests (`--max-requests 0`),
each of which costs a second of silence. Ours demands a token, as it does by default; Feast's has none. The floor is Granian with a
constant answer.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kit
import servers
from servers import Load

from feature_store import stores
from feature_store.data import NOW_US, TABLES, WIDTHS, scan
from feature_store.peer import Feast

FLOOR = "floor-constant"
KEYS_ASKED = 50


@dataclass
class Server:
    """A running server and how it is asked."""

    name: str
    url: str
    body: Path
    token: str = ""
    p99_ms: list[float] = field(default_factory=list)

    def post(self, body: bytes) -> Any:
        """One request."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def load(self, connections: int, seconds: float) -> float:
        """Requests a second."""
        found: Load = servers.ask(self.url, self.body, connections=connections, seconds=seconds, token=self.token)
        self.p99_ms.append(found.p99_ms)
        return found.rate


def check(server: Server, service: str, truth: stores.Truth, keys: list[int]) -> None:
    """Raise unless some keys have their newest rows; ours also leaves out what is older than the ttl."""
    for key in keys:
        answer = server.post(_body(service, key))
        names, columns = answer["metadata"]["feature_names"], [r["values"][0] for r in answer["results"]]
        got = dict(zip(names, columns, strict=True))
        for view in WIDTHS:
            row = truth.values[view].get(key)
            if kit.is_ours(server.name) and not truth.fresh[view].get(key):
                row = None
            for i in range(WIDTHS[view]):
                if got[f"{view}{i}"] != (None if row is None else row[i]):
                    raise kit.WrongError(f"{server.name}: key {key}: {got}")


def _body(service: str, key: int) -> bytes:
    return json.dumps({"feature_service": service, "entities": {"key": [key]}}).encode()


def http(folder: Path, redis_port: int | None, feast: Feast | None, rounds: int, seconds: float, tasks: list[str]) -> None:
    """Both points."""
    servers.need("wrk")
    truth, failures = stores.Truth.of(folder), dict[str, str]()
    keys = list(truth.values["a"])[:KEYS_ASKED]
    with ExitStack() as stack:
        running = _start(stack, folder, redis_port, feast)
        for server in running:
            server.body.parent.mkdir(exist_ok=True)
            server.body.write_bytes(_body("s", keys[0]))
            if server.name != FLOOR:
                try:
                    check(server, "s", truth, keys)
                    server.load(16, 1)
                except Exception as error:
                    failures[server.name] = f"{type(error).__name__}: {error}"[:300]
        for task in tasks:
            connections = int(task.partition("_")[2])
            for server in running:
                server.p99_ms.clear()
            calls: dict[str, Callable[[], float]] = {s.name: partial(s.load, connections, seconds) for s in running}
            lost = dict(failures)
            found = kit.interleave(calls, rounds, failures=lost)
            extra = {s.name: {"p99_ms": statistics.median(s.p99_ms)} for s in running if s.p99_ms}
            kit.report(task, found, "requests/s", better="higher", floor=FLOOR, extra=extra, failures=lost)


def _start(stack: ExitStack, folder: Path, redis_port: int | None, feast: Feast | None) -> list[Server]:
    home = folder / "http"
    home.mkdir(exist_ok=True)
    port = servers.free_port()
    command = [sys.executable, str(kit.HERE / "serving.py"), "--home", str(home), "--serve", "constant", "--port", str(port)]
    stack.enter_context(servers.started(command, port, home / "floor.log"))
    running = [Server(FLOOR, f"http://127.0.0.1:{port}/get-online-features", home / FLOOR / "body.json")]
    for kind in ("sqlite", "redis"):
        name, port = f"tidemill-{kind}", servers.free_port()
        store = stores.open_store(kind, folder, f"http-{kind}", redis_port) if find_spec("tidemill.serving.feast") else None
        if store is not None:
            stores.filled(folder, store)
            paths = os.pathsep.join(filter(None, [str(kit.HERE), os.environ.get("PYTHONPATH")]))
            command = [sys.executable, "-m", "feature_store.gateway", str(folder), kind, str(redis_port or 0), str(port)]
            stack.enter_context(servers.started(command, port, home / f"{name}.log", PYTHONPATH=paths))
            token = (home / f"{kind}.token").read_text()
            running.append(Server(name, f"http://127.0.0.1:{port}/get-online-features", home / name / "body.json", token))
    kinds = ("sqlite", "redis") if feast is not None and redis_port else ()
    return running + [_start_feast(stack, folder, kind, redis_port, feast) for kind in kinds]


def _start_feast(stack: ExitStack, folder: Path, kind: str, redis_port: int | None, feast: Any) -> Server:
    from feature_store.online import feast_online

    name, port = f"http-{kind}", servers.free_port()
    feast.ask("fill", name=name, online=feast_online(kind, folder, name, redis_port))
    binary, repository = feast.python.parent / "feast", feast.repository(name)
    command = [str(binary), "-c", str(repository), "serve", "-h", "127.0.0.1", "-p", str(port), "--no-access-log", "--max-requests", "0"]
    stack.enter_context(servers.started(command, port, folder / "http" / f"feast-{kind}.log", FEAST_USAGE="False"))
    return Server(f"feast-{kind}", f"http://127.0.0.1:{port}/get-online-features", folder / "http" / f"feast-{kind}" / "body.json")


def serve(folder: Path, kind: str, redis_port: int, port: int) -> None:
    """Our feature server in this process, on a filled store."""
    from feature_store.data import VIEWS
    from tidemill.core.clock import ReplayClock
    from tidemill.core.definitions import Definitions, FeatureService
    from tidemill.features import apply_on_demand
    from tidemill.features.embedded import OnlineLookup
    from tidemill.ledger.store import Ledger
    from tidemill.serving import Tokens
    from tidemill.serving.feast import FeatureRoutes, Reader
    from tidemill.serving.http import Settings
    from tidemill.serving.run import serve as run
    from tidemill.serving.server import build_app

    store, clock, settings = stores.open_store(kind, folder, f"http-{kind}", redis_port), ReplayClock(NOW_US), Settings()
    assert store is not None
    definitions = Definitions(
        tables=dict(TABLES), views={v.name: v for v in VIEWS}, feature_services={"s": FeatureService("s", list(VIEWS))}
    )
    tokens = Tokens(Ledger(f"sqlite:///{folder}/http/{kind}.db"), clock)
    (folder / "http" / f"{kind}.token").write_text(tokens.make("bench"))
    schemas = {name: scan(folder, name).schema for name in WIDTHS}
    reader = Reader(
        definitions, OnlineLookup(store, definitions, None), apply_on_demand, lambda t: schemas[t.name], max_keys=settings.max_keys
    )
    routes = FeatureRoutes(reader, None, clock=clock, settings=settings)
    run(build_app({}, tokens, clock=clock, settings=settings, features=routes), port=port)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

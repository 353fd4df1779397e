"""What one worker of the model server does over time and under strain: LightGBM of 200 trees and 20 features, every prediction durably logged.

    python benchmarks/endurance.py --json [--quick]

Latencies are those of an open-loop client at a constant rate (`openloop.py`), counted from the moment each request was due; every answer is
compared with the model's. Capacity is what `wrk` reaches at 32 connections in the same run (8 for `overload`, whose requests have 64 rows).

    tail_half_load   p99.9 ÷ p50 at half of capacity, 5 minutes                        goal ≤ 3
                     (granian-constant: a server that always gives the same answer, at the same rate of the same client)
    memory_slope     growth of resident memory at full load, 10 minutes after warm-up  goal ≤ 1 MB/min
    shadow_cost      live p99 with a shadow ÷ without, at half of capacity, in turns   goal ≤ 1.05
    hot_swap         failed requests while the version changes every second, 2 minutes goal 0
    overload         right answers a second at three times capacity ÷ capacity         goal ≥ 0.9; refusals within 5 ms, recovery ≤ 1 s
    training_beside  p99 beside a training (at Tidemill's priority) ÷ without          goal ≤ 2
    cold_start       from the start of the process to the first right answer           goal ≤ 1.5 s

The server is the one of `serving.py` that the variable ENDURANCE_VARIANT names, `tidemill` by default. Needs `wrk`. Client, `wrk` and training
share the cores with the server; where they are too few, that shows in the figures, and `late_us` says how late the client was itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kit
import openloop
import servers
import serving
from openloop import Plan, Seen

VARIANT = os.environ.get("ENDURANCE_VARIANT", kit.OURS)
SERVICE, CONNECTIONS = "bench", 64
OVERLOAD_CONNECTIONS, IN_FLIGHT = 256, 48
TREES = {1: 200, 2: 190}
"""Of each version: two models that answer differently, so that who answered can be told."""


def make_models(home: Path) -> None:
    """Train both versions; write packages, request bodies and the right answers by body and version."""
    import lightgbm
    import numpy as np

    from tidemill.training.package import pack_model
    from tidemill.training.ports import Model

    rng = np.random.default_rng(11)
    x = rng.normal(size=(20_000, 20))
    y = (x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] ** 2 + rng.normal(0, 0.7, 20_000) > 0.5).astype(float)
    params = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "verbose": -1, "seed": 11, "deterministic": True}
    rows = np.round(rng.normal(size=(64, 20)), 4)
    expected: dict[str, list[float]] = {}
    for version, trees in TREES.items():
        booster = lightgbm.train(params, lightgbm.Dataset(x, y), trees)
        native = booster.model_to_string().encode()
        (home / f"package-{version}").mkdir()
        names = tuple(f"f{i}" for i in range(20))
        pack_model(Model("lightgbm", native, names, {}, meta={"example": rows[:2].tolist()}), home / f"package-{version}")
        expected[str(version)] = booster.predict(rows).tolist()
    (home / "expected.json").write_text(json.dumps(expected))
    for n in (1, 64):
        tensor = {"name": "x", "datatype": "FP64", "shape": [n, 20], "data": rows[:n].ravel().tolist()}
        (home / f"body-{n}.json").write_text(json.dumps({"inputs": [tensor]}, separators=(",", ":")))
    np.savez(home / "rows.npz", x=x, y=y)


def train_for(home: str, seconds: float) -> int:
    """Train over and over for some seconds, as a step would; say how often."""
    import lightgbm
    import numpy as np

    found = np.load(Path(home) / "rows.npz")
    x, y = np.tile(found["x"], (5, 1)), np.tile(found["y"], 5)
    until, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        lightgbm.train({"objective": "binary", "num_leaves": 31, "verbose": -1}, lightgbm.Dataset(x, y), 20)
        turns += 1
    return turns


class Nothing:
    """A feature reader for a service whose requests carry all inputs."""

    def read(self, _views: Any, keys: Any, _at_us: int) -> list[dict[str, Any]]:
        return [{} for _ in keys]


class World:
    """The ledger behind the server, both versions registered in it."""

    def __init__(self, home: Path) -> None:
        from tidemill.core.clock import WallClock
        from tidemill.ledger.store import Ledger
        from tidemill.registry.embedded import LedgerRegistry
        from tidemill.versioning.embedded import FileBlobStore

        self.ledger, blobs = Ledger(f"sqlite:///{home}/ledger.db"), FileBlobStore(home / "blobs")
        self.clock = WallClock()
        self.registry, self.blobs = LedgerRegistry(self.ledger, blobs), blobs

    def fill(self, home: Path) -> str:
        """Register and deploy; return a token."""
        from tidemill.serving import Tokens

        for version in TREES:
            self.registry.register(SERVICE, self.blobs.put(home / f"package-{version}"), run_id="bench", metrics={}, meta={}, at_us=version)
        self.deploy(live=1)
        return Tokens(self.ledger, self.clock).make("bench")

    def deploy(self, **roles: int) -> None:
        """Let these versions serve, and no others."""
        import sqlalchemy as sa

        from tidemill.ledger import schema

        now = self.clock.now_us()
        with self.ledger.write(durable=False) as db:
            db.execute(sa.delete(schema.deployment))
            for role, version in roles.items():
                what = {"id": f"{role}-{version}", "service": SERVICE, "model": SERVICE, "version": version, "role": role}
                share = {"weight": float(role == "live"), "stage": 0, "decision_id": "bench", "since_us": now, "started_us": now}
                db.execute(schema.deployment.insert().values(**what, **share))


def serve(home: Path, port: int, in_flight: int) -> None:
    """Run the server under test, as `tidemill up` does: by its factory."""
    from tidemill.serving.run import run

    os.environ["ENDURANCE_SERVER"] = json.dumps([str(home), in_flight])
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # for the process that scores for shadows
    run("endurance:app", port=port)


def app() -> Any:
    """The server under test; its processes call it, each for itself."""
    from tidemill.core.definitions import Label, Service, Table
    from tidemill.serving import Scorer, Tokens, compile_plan
    from tidemill.serving.embedded import LedgerRouter, SqlitePredictionLog
    from tidemill.serving.http import Settings
    from tidemill.serving.server import build_app

    place, in_flight = json.loads(os.environ["ENDURANCE_SERVER"])
    home = Path(place)
    world = World(home)
    table = Table("rows", "files:rows", event_time="at", known_time="at")
    service = Service(SERVICE, features=[f"f{i}" for i in range(20)], label=Label("y", table, "y > 0", key="id"), spine=table, key="id")
    log = SqlitePredictionLog(home / "predictions.db", ahead=True, sync=serving.syncs(VARIANT))
    ports = (LedgerRouter(world.ledger), serving.runtime_of(VARIANT), world.registry, world.blobs, log)
    scorer = Scorer(service, compile_plan(service, Nothing()), *ports)
    settings = Settings(log_sync=serving.syncs(VARIANT), **({"max_in_flight": in_flight} if in_flight else {}))
    return build_app({SERVICE: scorer}, Tokens(world.ledger, world.clock), clock=world.clock, settings=settings)


def serve_constant(home: Path, port: int) -> None:
    """The first row's right answer, whatever is asked: the tail that client, kernel and HTTP have on this machine."""
    score = json.loads((home / "expected.json").read_text())["1"][:1]
    answer = json.dumps({"model_version": "1", "outputs": [{"data": score}]}).encode()

    async def constant(_scope: Any, http: Any) -> None:
        await http()
        http.response_bytes(200, [("content-type", "application/json")], answer)

    serving.listen(constant, port)


@dataclass
class Server:
    """A running server, and how it is asked."""

    home: Path
    port: int
    token: str
    world: World
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/{SERVICE}/infer"

    def capacity(self, seconds: float, rows: int = 1) -> float:
        """Requests a second that `wrk` reaches."""
        body = self.home / f"body-{rows}.json"
        return servers.ask(self.url, body, connections=32 if rows == 1 else 8, seconds=seconds, token=self.token).rate

    def at(self, *phases: tuple[float, float], rows: int = 1, connections: int = CONNECTIONS, port: int = 0) -> Seen:
        """What became of requests at constant rates: seconds and rate of each phase. `port`: that of another server."""
        expected = {version: values[:rows] for version, values in json.loads((self.home / "expected.json").read_text()).items()}
        body, path = str(self.home / f"body-{rows}.json"), f"/v2/models/{SERVICE}/infer"
        plan = Plan(port or self.port, path, self.token, connections, [body], [expected], phases, str(self.home / "seen.npz"))
        return openloop.ask(plan)

    def answers(self) -> bool:
        """Whether it answers with what the model says."""
        request = urllib.request.Request(self.url, (self.home / "body-1.json").read_bytes(), {"Content-Type": "application/json"})
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                answer = json.load(reply)
        except OSError:
            return False
        wanted = json.loads((self.home / "expected.json").read_text())[answer["model_version"]][0]
        logged = True if serving.syncs(VARIANT) else "written"
        if abs(answer["outputs"][0]["data"][0] - wanted) > 1e-5 or answer["parameters"]["logged"] != logged:
            raise kit.WrongError(f"the server answers {answer}, the model {wanted}")
        return True

    def shadows(self) -> dict[str, float]:
        """What became of rows for shadows until now."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            lines = reply.read().decode().splitlines()
        kinds = ("scored", "failed", "dropped")
        return {
            kind: float(next(line.split()[-1] for line in lines if line.startswith(f"tidemill_serving_shadow_{kind}_total ")))
            for kind in kinds
        }

    def resident_mb(self) -> float:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20


@contextmanager
def server(models: Path, in_flight: int = 0) -> Iterator[Server]:
    """A server over a fresh ledger and log, answering."""
    with kit.scratch() as home:
        for path in models.iterdir():
            (home / path.name).symlink_to(path)
        world = World(home)
        token, port = world.fill(home), servers.free_port()
        with servers.started(_command(home, port, in_flight), port, home / "server.log") as process:
            made = Server(home, port, token, world, process)
            for _ in range(600):
                if made.answers():
                    break
                time.sleep(0.05)
            yield made


def _command(home: Path, port: int, in_flight: int) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--serve", str(home), str(port), str(in_flight)]


def tail_half_load(models: Path, quick: bool) -> None:
    with server(models) as asked:
        rate = _half(asked, quick)
        seconds = 20 if quick else 300
        seen = asked.at((seconds, rate))
        floor = _constant(asked, seconds if quick else 60, rate)
    ratio, least = (of.ms(99.9) / of.ms(50) for of in (seen, floor))
    _tell("tail_half_load", ratio, "× p50", seen, goal="≤ 3", p999_ms=seen.ms(99.9), rate=rate, vs_floor=ratio / least)
    _tell("tail_half_load", least, "× p50", floor, tool=serving.CONSTANT, p999_ms=floor.ms(99.9), rate=rate)


def _constant(asked: Server, seconds: float, rate: float) -> Seen:
    """The same load on a server that does nothing."""
    port = servers.free_port()
    command = [sys.executable, str(Path(__file__).resolve()), "--constant", str(asked.home), str(port)]
    with servers.started(command, port, asked.home / "constant.log"):
        asked.at((2, rate), port=port)
        return asked.at((seconds, rate), port=port)


def memory_slope(models: Path, quick: bool) -> None:
    import numpy as np

    warm, seconds = (10, 45) if quick else (60, 600)
    found: list[tuple[float, float]] = []
    with server(models) as asked:
        rates = []
        load = threading.Thread(target=lambda: rates.append(asked.capacity(warm + seconds)))
        load.start()
        began = time.perf_counter()
        while load.is_alive():
            time.sleep(1)
            took = time.perf_counter() - began
            if warm < took < warm + seconds:
                found.append((took / 60, asked.resident_mb()))
    if not rates:
        raise RuntimeError("the load ended early")
    minutes, megabytes = np.array(found).T
    slope = float(np.polyfit(minutes, megabytes, 1)[0])
    kit.figure(
        "memory_slope", VARIANT, slope, "MB/min", n=len(found), goal="≤ 1", first_mb=megabytes[0], last_mb=megabytes[-1], rate=rates[0]
    )


def shadow_cost(models: Path, quick: bool) -> None:
    """Each round has a turn without and one with, their order turning; the figure is the median of the rounds' ratios."""
    rounds, seconds = (6, 4) if quick else (12, 15)
    with server(models) as asked:
        rate = _half(asked, quick)
        asked.world.deploy(live=1, shadow=2)  # whatever it takes to begin is not what it costs
        asked.at((2, rate / 10))
        time.sleep(5)
        sent = 0

        def live(**roles: int) -> float:
            nonlocal sent
            asked.world.deploy(live=1, **roles)
            time.sleep(2)
            seen = asked.at((seconds, rate))
            if seen.failed:
                raise kit.WrongError(f"{seen.failures()}")
            sent += len(seen.due) if roles else 0
            return seen.ms(99)

        before = asked.shadows()
        found = kit.interleave({"alone": live, "shadow": partial(live, shadow=2)}, rounds)
        time.sleep(2)
        after = asked.shadows()
        facts = {f"{name}_p99_ms": statistics.median(list_) for name, list_ in found.items()}
    ratios = sorted(with_ / alone for with_, alone in zip(found["shadow"], found["alone"], strict=True))
    counted = {f"shadow_{name}": int(after[name] - before[name]) for name in after}
    kit.figure(
        "shadow_cost", VARIANT, statistics.median(ratios), "×", n=rounds, goal="≤ 1.05", rate=rate, spread=[ratios[0], ratios[-1]],
        sent=sent, **counted, **facts,
    )  # fmt: skip


def hot_swap(models: Path, quick: bool) -> None:
    seconds = 10 if quick else 120
    stop, swaps = threading.Event(), 0
    with server(models) as asked:
        rate = _half(asked, quick)

        def swap() -> None:
            nonlocal swaps
            while not stop.wait(1):
                swaps += 1
                asked.world.deploy(live=1 + swaps % 2)

        swapping = threading.Thread(target=swap)
        swapping.start()
        seen = asked.at((seconds, rate))
        stop.set()
        swapping.join()
    _tell("hot_swap", float(seen.failed), "failed requests", seen, goal="0", swaps=swaps, p999_ms=seen.ms(99.9), rate=rate)


def overload(models: Path, quick: bool) -> None:
    before, during, after = (3, 5, 4) if quick else (10, 30, 10)
    with server(models, in_flight=IN_FLIGHT) as asked:
        capacity = asked.capacity(3 if quick else 10, rows=64)
        phases = ((before, capacity / 2), (during, 3 * capacity), (after, capacity / 2))
        seen = asked.at(*phases, rows=64, connections=OVERLOAD_CONNECTIONS)
    calm, hard, again = (seen.of(i) for i in range(3))
    ended = hard.due + hard.latency
    good = int(((hard.status == 200) & (ended < before + during)).sum()) / during
    usual = calm.ms(99) / 1e3
    slow = again.due[(again.status != 200) | ~(again.latency <= 3 * usual)]
    late = slow[slow < before + during + after / 2]  # what is slow later on has other causes
    recovery = float(late.max()) - before - during if len(late) else 0.0
    refused = int((hard.status == 503).sum())
    facts = {
        "refused_p99_ms": hard.ms(99, (503,)),
        "recovery_s": recovery,
        "refused": refused,
        "answered_p99_ms": hard.ms(99),
        "rate": 3 * capacity,
    }
    unexpected = {kind: n for kind, n in seen.failures().items() if kind != "503"}
    kit.figure(
        "overload",
        VARIANT,
        good / capacity,
        "× capacity",
        n=len(hard.due),
        goal="≥ 0.9",
        late_us=hard.late_us,
        failures=unexpected,
        **facts,
    )


def training_beside(models: Path, quick: bool) -> None:
    from tidemill.training.embedded import ProcessTrainer

    rounds, seconds = (2, 6) if quick else (5, 20)
    import endurance

    with server(models) as asked:
        rate = _half(asked, quick)

        def idle() -> float:
            return asked.at((seconds, rate)).ms(99)

        def beside() -> float:
            args = (str(models), seconds + 4.0)
            training = threading.Thread(target=lambda: ProcessTrainer().run(endurance.train_for, args))
            training.start()
            time.sleep(3)
            try:
                return asked.at((seconds, rate)).ms(99)
            finally:
                training.join()

        found = kit.interleave({"idle": idle, "training": beside}, rounds)
        facts = {f"{name}_p99_ms": statistics.median(list_) for name, list_ in found.items()}
    kit.figure("training_beside", VARIANT, facts["training_p99_ms"] / facts["idle_p99_ms"], "×", n=rounds, goal="≤ 2", rate=rate, **facts)


def cold_start(models: Path, quick: bool) -> None:
    found = []
    with server(models) as asked:
        home, token, world = asked.home, asked.token, asked.world
        for _ in range(3 if quick else 10):
            port = servers.free_port()
            began = time.perf_counter()
            process = subprocess.Popen(_command(home, port, 0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                fresh = Server(home, port, token, world, process)
                while not fresh.answers():
                    if time.perf_counter() - began > 60:
                        raise RuntimeError("no answer within a minute")
                    time.sleep(0.002)
                found.append(time.perf_counter() - began)
            finally:
                process.terminate()
                process.wait(30)
    kit.figure("cold_start", VARIANT, statistics.median(found), "s", n=len(found), goal="≤ 1.5", spread=[min(found), max(found)])


def _half(asked: Server, quick: bool) -> float:
    """Half of what it can do, after warming up."""
    asked.capacity(1 if quick else 5)
    return asked.capacity(3 if quick else 10) / 2


def _tell(task: str, value: float, unit: str, seen: Seen, *, tool: str = VARIANT, **facts: Any) -> None:
    common = {"p50_ms": seen.ms(50), "p99_ms": seen.ms(99), "late_us": seen.late_us, "failures": seen.failures()}
    kit.figure(task, tool, value, unit, n=len(seen.due), **facts, **common)


TASKS: dict[str, Callable[[Path, bool], None]] = {
    task.__name__: task for task in (tail_half_load, memory_slope, shadow_cost, hot_swap, overload, training_beside, cold_start)
}


def main() -> None:
    if "--serve" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--serve", nargs=3)
        home, port, in_flight = parser.parse_args().serve
        serve(Path(home), int(port), int(in_flight))
        return
    if "--constant" in sys.argv:
        serve_constant(Path(sys.argv[-2]), int(sys.argv[-1]))
        return
    options = kit.arguments(__doc__ or "")
    servers.need("wrk")
    kit.machine("tidemill", "granian", "onnxruntime", "lightgbm", "numba")
    with kit.scratch() as models:
        make_models(models)
        for name, task in TASKS.items():
            if not options.wants(name):
                continue
            try:
                task(models, options.quick)
            except (RuntimeError, kit.WrongError) as error:
                kit.failed(name, VARIANT, str(error)[:300])


if __name__ == "__main__":
    main()

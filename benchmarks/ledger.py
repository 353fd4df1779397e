"""What it costs to remember: metric values, concurrent writers and a search, beside MLflow and sqlite3 written by hand.

    python benchmarks/ledger.py [TASK …] [--json] [--quick]

Tasks: metric_no_fsync and metric_fsync (a run of 10 parameters and 100 steps of 3 metrics, one commit a step), writers_16x20 and
writers_16x20_fsync (16 processes, 20 runs each of 10 parameters and 10 steps, started together), search_10k (the best 50 of
10,000 runs by a metric), open_new (a new ledger). Figures of different durability are not comparable, so each task has one level and
a floor of the same: without fsync what a commit wrote survives a killed process, with it also a power cut. MLflow's file store never
syncs; its SQLite store does at each commit and cannot be told otherwise, and is also shown with all metrics of a run in one batch.
"""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import kit
import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.tracking.embedded import LedgerTracker

NAMES = ("loss", "auc", "acc")
PARAMS = {f"p{i}": str(i * 0.1) for i in range(10)}
STEPS = 100
FLOOR = "floor-sqlite3"
NO_FSYNC, FSYNC = "survives a killed process", "survives a power cut"
DURABLE = {False: {"durability": NO_FSYNC}, True: {"durability": FSYNC}}
MLFLOW = {False: ("file",), True: ("sqlite", "batch")}
"""MLflow's stores by whether they sync."""


class Tool(Protocol):
    """A tracker under test; `fsync`: every commit survives a power cut."""

    def run(self, steps: int) -> None:
        """Log one run."""

    def whole(self) -> int:
        """How many runs are there with all that belongs to them."""


class Floor:
    """sqlite3 by hand."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self.db = sqlite3.connect(folder / "floor.db", timeout=60, isolation_level=None)
        for pragma in ("journal_mode=wal", f"synchronous={'full' if fsync else 'normal'}", "busy_timeout=60000"):
            self.db.execute(f"pragma {pragma}")
        self.db.executescript(
            """create table if not exists run(id text primary key, status text, start real);
            create table if not exists param(run text, k text, v text, primary key(run, k)) without rowid;
            create table if not exists metric(run text, k text, step int, at real, v real, primary key(run, k, step)) without rowid;
            create table if not exists last(run text, k text, v real, primary key(run, k)) without rowid;
            create index if not exists last_kv on last(k, v);"""
        )

    def run(self, steps: int) -> None:
        db, name = self.db, uuid.uuid4().hex
        db.execute("begin immediate")
        db.execute("insert into run values (?, 'running', ?)", (name, time.time()))
        db.executemany("insert into param values (?, ?, ?)", [(name, k, v) for k, v in PARAMS.items()])
        db.execute("commit")
        for step in range(steps):
            values = _values(step)
            db.execute("begin immediate")
            db.executemany("insert into metric values (?, ?, ?, ?, ?)", [(name, k, step, time.time(), v) for k, _, v in values])
            db.executemany("insert or replace into last values (?, ?, ?)", [(name, k, v) for k, _, v in values])
            db.execute("commit")
        db.execute("update run set status = 'done' where id = ?", (name,))

    def whole(self) -> int:
        found: int = self.db.execute("select count(*) from run where status = 'done'").fetchone()[0]
        return found


class Ours:
    """The ledger, through the tracker as a training loop uses it."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        self.fsync = fsync

    def run(self, steps: int) -> None:
        name = uuid.uuid4().hex
        with self.ledger.write(durable=self.fsync) as db:
            insert_once(db, schema.run, _run_row(name))
        self.ledger.log_params(name, PARAMS)
        for step in range(steps):
            self.ledger.log_metrics(name, _values(step), at_us=time.time_ns() // 1000, durable=self.fsync)
        with self.ledger.write(durable=self.fsync) as db:
            db.execute(sa.update(schema.run).where(schema.run.c.id == name).values(status="finished"))

    def whole(self) -> int:
        run, metric, param = schema.run.c, schema.metric.c, schema.param.c
        with self.ledger.read() as db:
            done = set(db.execute(sa.select(run.id).where(run.status == "finished")).scalars())
            steps = dict(db.execute(sa.select(metric.run_id, sa.func.count()).group_by(metric.run_id)).all())
            params = dict(db.execute(sa.select(param.run_id, sa.func.count()).group_by(param.run_id)).all())
        return sum(1 for name in done if steps.get(name, 0) % len(NAMES) == 0 and steps.get(name) and params.get(name) == len(PARAMS))


TOOLS: dict[str, Any] = {kit.OURS: Ours, FLOOR: Floor}


def _values(step: int) -> list[tuple[str, int, float]]:
    return [(name, step, (step + 1) / (step + 2 + i)) for i, name in enumerate(NAMES)]


def _run_row(name: str, at_us: int = 0) -> dict[str, Any]:
    texts = dict.fromkeys(("params", "graph", "code", "environment"), "{}")
    return {"id": name, "pipeline": "train", "service": "s", "cause_id": "c", "status": "running", "started_us": at_us, **texts}


def metric(task: str, peer: kit.Peer | None, *, fsync: bool, rounds: int, runs: int) -> None:
    """Microseconds a value, in one process."""
    failures: dict[str, str] = {}
    with kit.scratch() as folder:
        tools: dict[str, Tool] = {name: tool(folder, fsync=fsync) for name, tool in TOOLS.items()}
        for tool in tools.values():
            tool.run(2)

        def measure(tool: Tool) -> float:
            return kit.seconds(lambda: [tool.run(STEPS) for _ in range(runs)]) / runs / STEPS / len(NAMES)

        calls: dict[str, Callable[[], float]] = {name: (lambda tool=tool: measure(tool)) for name, tool in tools.items()}  # type: ignore[misc]
        if peer is not None:
            calls |= {f"mlflow-{kind}": _peer_metric(peer, kind, folder / kind) for kind in MLFLOW[fsync]}
        found = kit.interleave(calls, rounds, slow={"mlflow-sqlite": 5}, failures=failures)
    kit.report(task, found, "us/value", scale=1e6, floor=FLOOR, extra=dict.fromkeys(calls, DURABLE[fsync]), failures=failures)


def _peer_metric(peer: kit.Peer, kind: str, folder: Path) -> Callable[[], float]:
    folder.mkdir()
    peer.ask("log", kind=kind, folder=str(folder), runs=1, steps=2)
    return lambda: peer.ask("log", kind=kind, folder=str(folder), runs=1, steps=STEPS) / STEPS / len(NAMES)


def writers(task: str, peer: kit.Peer | None, *, fsync: bool, rounds: int, processes: int = 16, runs: int = 20) -> None:
    """Runs a second of processes that write to one ledger, the slowest single run, and what was lost."""
    slowest: dict[str, list[float]] = {}
    lost: dict[str, int] = {}
    failures: dict[str, str] = {}

    def note(name: str, rate: float, worst: float, whole: int) -> float:
        lost[name] = lost.get(name, 0) + processes * runs - whole
        slowest.setdefault(name, []).append(worst)
        return rate

    def measure(name: str) -> float:
        with kit.scratch() as folder:
            TOOLS[name](folder, fsync=fsync)
            wall, worst, done = _together(name, folder, fsync, processes, runs)
            return note(name, done / wall, worst, TOOLS[name](folder, fsync=fsync).whole())

    def by_peer(name: str, kind: str) -> float:
        assert peer is not None
        with kit.scratch() as folder:
            told = peer.ask("writers", kind=kind, folder=str(folder), processes=processes, runs=runs, steps=10)
            if told["errors"]:
                failures[name] = "; ".join(told["errors"])
            return note(name, told["rate"], told["slowest"], told["whole"])

    calls: dict[str, Callable[[], float]] = {name: (lambda name=name: measure(name)) for name in TOOLS}  # type: ignore[misc]
    if peer is not None:
        name = f"mlflow-{MLFLOW[fsync][0]}"
        calls[name] = lambda: by_peer(name, MLFLOW[fsync][0])
    found = kit.interleave(calls, rounds, slow={"mlflow-sqlite": 1, "mlflow-file": 3}, failures=failures)
    facts = {
        n: {"slowest_run_s": max(slowest[n]), "lost": lost[n], "of": processes * runs * len(found[n]), **DURABLE[fsync]} for n in slowest
    }
    kit.report(task, found, "runs/s", floor=FLOOR, better="higher", extra=facts, failures=failures)


def _together(name: str, folder: Path, fsync: bool, processes: int, runs: int) -> tuple[float, float, int]:
    context = multiprocessing.get_context("spawn")
    queue, go = context.Queue(), context.Barrier(processes + 1)
    workers = [context.Process(target=_writer, args=(name, folder, fsync, runs, queue, go)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    go.wait(180)
    start = time.perf_counter()
    told = [queue.get(timeout=300) for _ in workers]
    wall = time.perf_counter() - start
    for worker in workers:
        worker.join(30)
    for _, _, error in told:
        if error:
            print(f"{name}: {error}")
    return wall, max(worst for _, worst, _ in told), sum(done for done, _, _ in told)


def _writer(name: str, folder: Path, fsync: bool, runs: int, queue: Any, go: Any) -> None:
    tool: Tool = TOOLS[name](folder, fsync=fsync)
    tool.whole()
    go.wait(180)
    done, worst, error = 0, 0.0, ""
    for _ in range(runs):
        start = time.perf_counter()
        try:
            tool.run(10)
            done += 1
        except Exception as failure:  # counted as lost, and told
            error = f"{type(failure).__name__}: {failure}"
        worst = max(worst, time.perf_counter() - start)
    queue.put((done, worst, error))


def search(task: str, peer: kit.Peer | None, *, rounds: int, size: int) -> None:
    """Milliseconds to find the best 50 of `size` runs by one metric, with two metrics and a parameter shown."""
    chance = random.Random(5)
    rows = [(f"{chance.getrandbits(128):032x}", {k: chance.random() for k in NAMES}, i) for i in range(size)]
    with kit.scratch() as folder:
        floor, ours = Floor(folder, fsync=False).db, Ours(folder, fsync=False).ledger
        floor.execute("begin")
        floor.executemany("insert into run values (?, 'done', ?)", [(name, at) for name, _, at in rows])
        floor.executemany("insert into param values (?, ?, ?)", [(name, k, v) for name, _, _ in rows for k, v in PARAMS.items()])
        floor.executemany("insert into last values (?, ?, ?)", [(name, k, v) for name, values, _ in rows for k, v in values.items()])
        floor.execute("commit")
        _fill(ours, rows)
        tracker = LedgerTracker(ours)
        expected = [name for name, _, _ in sorted(rows, key=lambda row: -row[1]["auc"])[:50]]

        def by_hand() -> list[str]:
            best = floor.execute(
                "select r.id, r.status, r.start, l.v from last l join run r on r.id = l.run where l.k = 'auc' order by l.v desc limit 50"
            ).fetchall()
            names = [row[0] for row in best]
            marks = ",".join("?" * len(names))
            floor.execute(f"select run, k, v from last where run in ({marks}) and k in ('auc', 'loss')", names).fetchall()
            floor.execute(f"select run, k, v from param where run in ({marks}) and k = 'p1'", names).fetchall()
            return names

        def by_tracker() -> list[str]:
            found = tracker.search(order_by="auc", descending=True, metrics=("auc", "loss"), params=("p1",), limit=50)
            return [row.id for row in found]

        assert by_hand() == by_tracker() == expected
        calls = {kit.OURS: lambda: kit.seconds(by_tracker), FLOOR: lambda: kit.seconds(by_hand)}
        slow: dict[str, int] = {}
        for kind in ("sqlite", "file") if peer is not None else ():
            calls[f"mlflow-{kind}"] = _peer_search(peer, kind, folder / kind, rows, expected)
            slow[f"mlflow-{kind}"] = 5 if kind == "sqlite" else 2
        failures: dict[str, str] = {}
        found = kit.interleave(calls, rounds, slow=slow, failures=failures)
    kit.report(task, found, "ms", scale=1e3, floor=FLOOR, failures=failures)


def _peer_search(peer: Any, kind: str, folder: Path, rows: list[Any], expected: list[str]) -> Callable[[], float]:
    folder.mkdir()
    peer.ask("fill", kind=kind, folder=str(folder), rows=rows)

    def measure() -> float:
        told = peer.ask("search", kind=kind, folder=str(folder))
        if told["names"] != expected:
            raise kit.WrongError("other runs than the best 50")
        return float(told["s"])

    return measure


def _fill(ledger: Ledger, rows: list[tuple[str, dict[str, float], int]]) -> None:
    with ledger.write(durable=False) as db:
        db.execute(schema.run.insert(), [_run_row(name, at) for name, _, at in rows])
        db.execute(schema.param.insert(), [{"run_id": name, "name": k, "value": v} for name, _, _ in rows for k, v in PARAMS.items()])
        values = [{"run_id": name, "name": k, "step": 0, "value": v, "at_us": 0} for name, m, _ in rows for k, v in m.items()]
        db.execute(schema.metric.insert(), values)
        db.execute(schema.metric_last.insert(), values)


def opening(task: str, *, rounds: int) -> None:
    """Milliseconds to open a ledger: a new one, and one that is there."""

    def new() -> float:
        with kit.scratch() as folder:
            return kit.seconds(lambda: Ledger(f"sqlite:///{folder}/ledger.db"))

    kit.report(task, kit.interleave({kit.OURS: new}, rounds), "ms", scale=1e3)


def main() -> None:
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "sqlalchemy")
    rounds, quick = (5, True) if options.quick else (9, False)
    plans: dict[str, Any] = {
        "metric_no_fsync": lambda task: metric(task, peer, fsync=False, rounds=rounds, runs=5 if quick else 20),
        "metric_fsync": lambda task: metric(task, peer, fsync=True, rounds=rounds, runs=1 if quick else 5),
        "writers_16x20": lambda task: writers(task, peer, fsync=False, rounds=2 if quick else 5),
        "writers_16x20_fsync": lambda task: writers(task, peer, fsync=True, rounds=1 if quick else 5),
        "search_10k": lambda task: search(task, peer, rounds=rounds * 5, size=10_000),
        "open_new": lambda task: opening(task, rounds=rounds),
    }
    with kit.scratch() as folder:
        python = kit.peer_python("mlflow", "mlflow>=3.6")
        peer = kit.Peer(python, "mlflow", folder / "mlflow") if python is not None else None
        for task, plan in plans.items():
            if options.wants(task):
                plan(task)
        if peer is not None:
            peer.close()


if __name__ == "__main__":
    main()

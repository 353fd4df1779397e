"""A small world for the loop: real ledger, log and labels; models that are functions; a launch that registers a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Gate, Label, Rollout, Service, Table, Trigger
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.monitoring.embedded import LedgerMetrics, SqliteLabelStore
from tidemill.monitoring.ports import LabelRow
from tidemill.registry.embedded import LedgerRegistry
from tidemill.registry.ports import ModelVersion
from tidemill.retraining.ports import Cause, HoldoutRows, Loop
from tidemill.serving.embedded.log import SqlitePredictionLog
from tidemill.serving.ports import LoadedModel, Prediction, Role

START = 1_362_096_000_000_000  # 2013-03-01
SKILL = {"good": 0.9, "fair": 0.6, "bad": 0.0, "flipped": -0.8}
LANDINGS = Table("landings", "files:x", event_time="at", known_time="known")


class Skilled(LoadedModel):
    """Answers with a skill: sees `signal` and trusts it as much as its skill says."""

    features: tuple[str, ...] = ("signal",)
    texts: frozenset[str] = frozenset()

    def __init__(self, skill: str) -> None:
        self.skill = SKILL[skill]

    def predict(self, rows: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return 1 / (1 + np.exp(-self.skill * 2 * np.array([float(r[0]) for r in rows])))


class Blobs:
    """A digest is the name of a skill."""

    def fetch(self, digest: str) -> Path:
        return Path(digest)

    def size_bytes(self, digest: str) -> int:
        return len(digest)


class Runtime:
    def load(self, folder: Path) -> LoadedModel:
        return Skilled(folder.name)


def rows_of(seed: int, from_us: int, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Times over `count` hours / 10, a signal with a shift per day, and labels that follow it."""
    rng = np.random.default_rng(seed)
    at = from_us + np.arange(count) * HOUR_US // 10
    day = (at // DAY_US) % 1000
    signal = rng.normal(size=count) + 0.3 * np.sin(day * 12.9898)
    label = (rng.random(count) < 1 / (1 + np.exp(-1.8 * signal))).astype(np.float64)
    return at, signal, label


@dataclass
class World:
    """The loop and what happens around it."""

    path: Path
    loop: Loop
    clock: ReplayClock
    service: Service
    train: list[str] = field(default_factory=lambda: ["fair"])
    broken_canary: bool = False
    broken_live: int = 0
    launches: list[str] = field(default_factory=list)

    def publish(self, rows: int = 1000) -> None:
        """Tell the ledger that label rows were published now."""
        now = self.clock.now_us()
        row = {
            "id": f"batch-{now}",
            "table_name": "landings",
            "source": "x",
            "status": "published",
            "rows": rows,
            "snapshot_id": 1,
            "branch": None,
        }
        with self.loop.ledger.write() as db:
            insert_once(db, schema.batch, row | {"anomalies": "[]", "cursor": "", "digest": "d", "at_us": now, "wall_ms": 0.0})

    def serve(self, until_us: int) -> None:
        """Answer ten requests an hour up to `until_us`, with every deployment, and let labels come two hours later."""
        start = self.clock.now_us()
        at, signal, label = rows_of(start % 2**31, start, int((until_us - start) // (HOUR_US // 10)))
        deployments = deployments_of(self.loop.ledger, self.service.name)
        skills = {d["version"]: SKILL[self.skill(d["version"])] for d in deployments}
        records: list[Prediction] = []
        for t, s, n in zip(at.tolist(), signal.tolist(), range(len(at)), strict=True):
            canary = chosen([d for d in deployments if d["role"] == "canary"], (n * 0.618) % 1)
            for d in deployments:
                answers = d is canary or (canary is None and d["role"] == "live")
                role = cast("Role", d["role"] if answers else "shadow")
                broken = (self.broken_canary and role == "canary") or d["version"] == self.broken_live
                shown = -3 * s if broken else s
                score = 1 / (1 + exp(-2 * skills[d["version"]] * shown))
                records.append(
                    Prediction(f"r{t}", self.service.name, self.service.name, d["version"], role, t, score, ("signal",), (shown,))
                )
        self.loop.log.append(records)
        known = [LabelRow("late", f"r{t}", y, t + HOUR_US, t + 2 * HOUR_US) for t, y in zip(at.tolist(), label.tolist(), strict=True)]
        self.loop.labels.write(known)
        self.clock.advance_to(until_us)

    def skill(self, version: int) -> str:
        return self.loop.registry.get(self.service.name, version).digest


def chosen(canaries: Sequence[dict[str, Any]], place: float) -> dict[str, Any] | None:
    """The canary that has this place in [0, 1), if one has."""
    for canary in canaries:
        place -= canary["weight"]
        if place < 0:
            return canary
    return None


def deployments_of(ledger: Ledger, service: str) -> list[dict[str, Any]]:
    d = schema.deployment
    query = sa.select(d).where(d.c.service == service, d.c.ended_us.is_(None)).order_by(d.c.started_us)
    with ledger.read() as db:
        return [dict(row) for row in db.execute(query).mappings()]


def make_world(path: Path, *, retrain: Sequence[Trigger] = (), rollout: Rollout | None = None, gate: Gate | None = None) -> World:
    path.mkdir(parents=True, exist_ok=True)
    label = Label("late", LANDINGS, "arr_delay > 15", key="flight", matures="6h")
    service = Service(
        "delay", ["signal"], label, LANDINGS, "flight", gate=gate or Gate(), rollout=rollout or Rollout(canary=(0.2, 0.5)), retrain=retrain
    )
    clock, ledger = ReplayClock(START), Ledger(f"sqlite:///{path}/ledger.db")
    nothing = cast("Any", None)
    world: World

    def launch(loop: Loop, cause: Cause) -> None:
        world.launches.append(cause.id)
        with loop.ledger.read() as db:
            earlier = db.execute(sa.select(sa.func.count()).where(schema.cause.c.at_us < cause.at_us)).scalar_one()
        skill = world.train[min(int(earlier), len(world.train) - 1)]
        run: dict[str, Any] = {
            "id": cause.run_id,
            "pipeline": "train",
            "service": service.name,
            "cause_id": cause.id,
            "params": "{}",
            "graph": "{}",
        }
        run |= {"code": "{}", "environment": "{}", "started_us": clock.now_us()}
        with loop.ledger.write() as db:
            insert_once(db, schema.run, run | {"status": "running"})
            status = db.execute(sa.select(schema.run.c.status).where(schema.run.c.id == cause.run_id)).scalar()
        if status == "finished":
            return
        meta = {"trained_until_us": cause.at_us}
        loop.registry.register(service.name, skill, run_id=str(cause.run_id), metrics={}, meta=meta, at_us=clock.now_us())
        with loop.ledger.write() as db:
            db.execute(schema.run.update().where(schema.run.c.id == cause.run_id).values(status="finished", finished_us=clock.now_us()))

    def holdout(version: ModelVersion) -> HoldoutRows:
        at, signal, y = rows_of(7, version.at_us - 14 * DAY_US, 14 * 240)
        return HoldoutRows(("signal",), [(s,) for s in signal.tolist()], y, at, prior=0.5)

    loop = Loop(
        project=path, definitions=Definitions(services={service.name: service}), clock=clock, ledger=ledger, tables=nothing, blobs=cast("Any", Blobs()),
        profiler=nothing, schemas=nothing, offline=nothing, processor=nothing, registry=LedgerRegistry(ledger, cast("Any", Blobs())), tracker=nothing, executor=nothing, router=nothing,
        runtime=Runtime(), log=SqlitePredictionLog(path / "predictions.db"), labels=SqliteLabelStore(path / "labels.db"),
        metrics=LedgerMetrics(ledger), builder=nothing, sources={}, audit=nothing, launch=launch, holdout=holdout, elsewhere=nothing,
    )  # fmt: skip
    world = World(path, loop, clock, service)
    return world


def with_ledger(world: World, ledger: Ledger) -> World:
    """The same world writing through another ledger object."""
    world.loop = replace(world.loop, ledger=ledger, registry=LedgerRegistry(ledger, cast("Any", Blobs())), metrics=LedgerMetrics(ledger))
    return world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.loop.ledger.close()


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    count = iter(range(1000))

    def build(**settings: Any) -> World:
        return make_world(tmp_path / f"w{next(count)}", **settings)

    return build

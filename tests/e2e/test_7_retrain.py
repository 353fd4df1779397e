"""Story 7: four causes, a rollout that ends live, and one that is taken back because its labelled quality is worse."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.e2e.conftest import Story

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Trigger, every, on_drift, on_new_data, on_quality
from tidemill.core.instants import DAY_US
from tidemill.features import apply_on_demand
from tidemill.ledger import schema
from tidemill.platform.root import Platform
from tidemill.retraining import decisions, loop, world
from tidemill.retraining import replay as history
from tidemill.serving import Scorer, compile_plan
from tidemill.serving.ports import LoadedModel

pytestmark = pytest.mark.xdist_group("story")


def _copied(story: Story, home: Path) -> Platform:
    """The story's project at its end, with a ledger and predictions of its own."""
    home.mkdir(parents=True)
    for name in ("ledger.db", "predictions.db", "studies.db"):
        with sqlite3.connect(story.project / ".tidemill" / name) as source, sqlite3.connect(home / name) as target:
            source.backup(target)
        source.close()
        target.close()
    clock = ReplayClock(story.until_us)
    original = Platform.open(story.project, clock=clock)
    platform = Platform.open(story.project, ["retraining=weekly"], clock=clock, home=home, share=original)
    with platform.ledger.write() as db:  # a rollout under way would come first
        d = schema.deployment
        db.execute(d.update().where(d.c.role.in_(("shadow", "canary"))).values(role="retired", ended_us=story.until_us))
        late = sa.select(schema.cause.c.id).where(schema.cause.c.at_us > story.until_us)  # what other tests did by hand, in the present
        db.execute(schema.run.delete().where(schema.run.c.cause_id.in_(late)))
        db.execute(schema.cause.delete().where(schema.cause.c.at_us > story.until_us))
        db.execute(schema.model_version.delete().where(schema.model_version.c.at_us > story.until_us))
        db.execute(schema.model_version.update().where(schema.model_version.c.status == "challenger").values(status="retired"))
    return platform


@pytest.mark.parametrize(
    ("kind", "trigger"),
    [
        ("drift", on_drift(0.01, cooldown="1h")),
        ("quality", on_quality(-1.0, cooldown="1h")),
        ("schedule", every("1h")),
        ("new_data", on_new_data("1h")),
    ],
)
def test_each_cause_starts_a_run_and_is_recorded(story: Story, tmp_path: Path, kind: str, trigger: Trigger) -> None:
    platform = _copied(story, tmp_path / "home")
    started: list[str] = []

    def launch(_loop: Any, cause: Any) -> None:
        started.append(cause.id)
        with platform.ledger.write() as db:  # the run itself is story 3; here it only has to exist
            db.execute(
                schema.run.insert().values(
                    id=cause.run_id, pipeline="train", service="flight-delay", cause_id=cause.id, status="failed", params="{}", graph="{}",
                    code="{}", environment="{}", started_us=cause.at_us, finished_us=cause.at_us, wall_s=0.0, error="not run in this test",
                )
            )  # fmt: skip

    with_trigger = replace(platform.loop, triggers=[trigger], launch=launch)
    loop.reconcile(with_trigger, platform.definitions.service())
    with platform.ledger.read() as db:
        cause = db.execute(sa.select(schema.cause).where(schema.cause.c.id.in_(started))).mappings().one()
        decision = (
            db.execute(sa.select(schema.decision).where(schema.decision.c.kind == "trigger", schema.decision.c.at_us == story.until_us))
            .mappings()
            .one()
        )
    assert cause["kind"] == kind
    assert "reason" in cause["evidence"]
    assert decision["outcome"] == "retrain"
    again = loop.reconcile(with_trigger, platform.definitions.service())
    assert len(started) == 1, f"one cause, one run: {again}"


def test_the_challenger_went_through_gate_shadow_and_canary_to_live(platform: Platform) -> None:
    made = decisions.listing(platform.ledger, service="flight-delay", limit=1000)
    live = [d for d in made if d.kind == "rollout" and d.outcome == "promote" and d.subject != "flight-delay/1"]
    assert live, [(d.kind, d.outcome, d.subject) for d in made]
    subject = live[-1].subject
    path = [
        (d.kind, d.outcome) for d in sorted(made, key=lambda d: (d.at_us, d.kind)) if d.subject == subject and d.kind in ("gate", "rollout")
    ]
    assert path[:2] == [("gate", "promote"), ("rollout", "start")]
    assert ("rollout", "advance") in path
    assert path[-1] == ("rollout", "promote")
    evidence = live[-1].evidence
    assert evidence["n"] >= 100
    assert evidence["low"] <= evidence["mean"] <= evidence["high"]
    assert evidence["bound"] <= platform.definitions.service().rollout.margin
    assert evidence["series"], "the interval at every look is kept"
    with platform.ledger.read() as db:
        causes = set(db.execute(sa.select(schema.cause.c.kind)).scalars())
    assert {"new_data", "schedule"} <= causes


class Sabotaged:
    """A runtime whose models, but for the first, read some inputs wrongly once `broken` is set: a fault in the canary's own path."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.broken = False
        self.loaded = 0

    def load(self, folder: Path) -> LoadedModel:
        """Load; the first model loaded stays sound."""
        self.loaded += 1
        model: LoadedModel = self.runtime.load(folder)
        return model if self.loaded == 1 else _Reading(model, self)


class _Reading(LoadedModel):
    def __init__(self, model: LoadedModel, by: Sabotaged) -> None:
        self.features, self.texts, self._model, self._by = model.features, model.texts, model, by

    def predict(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Delays in seconds and with the wrong sign, once it is broken."""
        if not self._by.broken:
            return self._model.predict(rows)
        wrong = [tuple(v * -60 if "delay" in c and v is not None else v for c, v in zip(self.features, row, strict=True)) for row in rows]
        return self._model.predict(wrong)


def test_a_model_that_passes_offline_and_is_wrong_online_is_rolled_back(story: Story, tmp_path: Path) -> None:
    original = Platform.open(story.project)
    clock = ReplayClock(0)
    platform = Platform.open(story.project, ["retraining=weekly"], clock=clock, home=tmp_path / "home", share=original)
    for own in ("online", "processor"):  # time starts again
        platform.__dict__.pop(own)
    runtime = Sabotaged(original.runtime)
    service = platform.definitions.service()
    plan = compile_plan(service, platform.processor, apply_on_demand)
    scorer = Scorer(service, plan, platform.router, runtime, platform.registry, platform.blobs, platform.log)
    lane = history.LocalLane("weekly", platform.loop, scorer)
    past = world.from_tables(platform.definitions.tables, platform.tables.scan)
    with original.ledger.read() as db:
        batches = [dict(r) for r in db.execute(sa.select(schema.batch)).mappings()]
    with platform.ledger.write() as db:
        db.execute(schema.batch.insert(), batches)

    def canary(_done: int, _of: int, _day: str) -> None:
        runtime.broken |= any(d.role == "canary" for d in platform.router.deployments(service.name))

    replay = history.Replay(
        platform.loop,
        service,
        clock,
        past,
        plan,
        [lane],
        "weekly",
        story.from_us,
        story.from_us + 21 * DAY_US,
        story.from_us - 3 * DAY_US,
        ingest=False,
    )
    history.run(replay, canary)
    assert runtime.broken, "a challenger passed the gate and the shadow, and became a canary"
    back = [d for d in decisions.listing(platform.ledger, service=service.name, limit=1000) if d.outcome == "rollback"]
    assert back, [
        (d.kind, d.outcome, d.subject, d.at_us, d.evidence.get("reason"))
        for d in decisions.listing(platform.ledger, service=service.name, limit=1000)
    ]
    first = back[-1]  # newest first
    evidence = first.evidence
    assert evidence["phase"] == "canary"
    assert evidence["low"] > 0, "shown to be worse on labelled quality"
    assert evidence["n"] > 0
    version = int(first.subject.split("/")[1])
    assert platform.registry.get(service.name, version).status == "rolled_back"
    assert platform.registry.get(service.name, "champion").version == 1
    live = [d for d in platform.router.deployments(service.name) if d.role == "live"]
    assert [d.version for d in live] == [1]
    original.close()
    platform.close()

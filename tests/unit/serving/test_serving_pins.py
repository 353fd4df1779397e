"""Models are answered from the versions of views that they were trained on, or not at all."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.feature_rows import BUSY, MINUTE, TRIPS, WIDER, define, publish, trips
from tests.support.serving_kit import Stack, sigmoid

from tidemill.core.definitions import FeatureView, Label, Service
from tidemill.core.errors import InvalidError
from tidemill.features import apply_on_demand, materialize, view_digest
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.ledger import schema
from tidemill.ledger.store import insert_once, to_json
from tidemill.registry.embedded import LedgerRegistry
from tidemill.serving import Pins, Scorer, compile_plan
from tidemill.serving.embedded import LedgerRouter, OnnxRuntime
from tidemill.testing.models import write_linear_model

AT = 100 * MINUTE
ROWS = trips(("x", "a", 10, 12, 5.0), ("y", "a", 50, 51, 7.0))


class Trips:
    """A service over one view, whose definition changes while models of both versions are deployed."""

    def __init__(self, home: Path, defined: FeatureView) -> None:
        label = Label("late", TRIPS, "delay > 15", key="trip")
        self.service = Service("late", features=["distance", defined], label=label, spine=TRIPS, key="trip")
        self.stack = Stack(home, self.service)
        self.store = home / "online.db"
        self.home = home

    def materialize(self, view: FeatureView, **given: Any) -> None:
        processor = ViewProcessor(SqliteOnlineStore(self.store), define(view))
        materialize(processor, publish(self.home / "lake"), at_us=AT, **given)

    def model(self, version: int, view: FeatureView | None, columns: tuple[str, ...]) -> None:
        """A model that answers by the mean alone, and says which view it was trained on."""
        weights = {c: 0.1 if c == "busy__delay_mean_1h" else 0.0 for c in columns}
        digest = self.stack.blobs.put(write_linear_model(self.home / f"model-{version}", weights))
        meta = {"signature": {"inputs": list(columns)}} | ({"views": {"busy": view_digest(view)}} if view else {})
        row = {"name": "late", "version": version, "digest": digest, "run_id": f"run-{version}", "status": "registered"}
        with self.stack.ledger.write() as db:
            insert_once(db, schema.model_version, {**row, "metrics": "{}", "meta": to_json(meta), "at_us": version})

    def scorer(self) -> Scorer:
        reader = OnlineReader(SqliteOnlineStore(self.store), define(*self.service.views))
        plan, stack = compile_plan(self.service, reader, apply_on_demand), self.stack
        ports = (LedgerRouter(stack.ledger), OnnxRuntime(), LedgerRegistry(stack.ledger, stack.blobs), stack.blobs, stack.log)
        return Scorer(self.service, plan, *ports, Pins(plan, reader, apply_on_demand).plan_for)

    def ask(self, scorer: Scorer, *ids: str) -> dict[tuple[int, str], set[float]]:
        """Scores by (version, role), of requests that look everything up."""
        requests = [{"place": "a", "distance": 3.0}] * len(ids)
        scorer.answer(requests, scorer.plan.inputs(requests, [AT] * len(ids)), ids, [AT] * len(ids))
        out: dict[tuple[int, str], set[float]] = {}
        for p in self.stack.log.read("late"):
            if p.id in ids:
                out.setdefault((p.version, p.role), set()).add(round(p.score, 9))
        return out


def score(mean: float) -> set[float]:
    return {round(sigmoid(0.1 * mean), 9)}


@pytest.fixture
def changed(tmp_path: Path) -> Trips:
    """Version 1 learned from the old view, version 2 from the new one; the definitions have the new one, and both are online."""
    publish(tmp_path / "lake", ROWS)
    world = Trips(tmp_path, WIDER)
    world.materialize(BUSY)
    world.materialize(WIDER)
    world.model(1, BUSY, ("distance", *BUSY.columns))
    world.model(2, WIDER, ("distance", *WIDER.columns))
    return world


def test_each_model_reads_its_own_version_during_a_rollout(changed: Trips) -> None:
    changed.stack.deploy(live=1, canary=(2, 0.5))
    scorer = changed.scorer()
    assert scorer.refresh()
    assert scorer.lineup.failures == {}
    ids = [f"r{i}" for i in range(40)]
    found = changed.ask(scorer, *ids)
    assert found == {
        (1, "live"): score(7.0), (1, "shadow"): score(7.0), (2, "canary"): score(6.0), (2, "shadow"): score(6.0),
    }  # fmt: skip
    logged = {p.version: dict(zip(p.columns, p.values, strict=True)) for p in changed.stack.log.read("late")}
    assert logged[1]["busy__delay_mean_1h"] == 7.0
    assert logged[1]["busy__delay"] == 7.0
    assert logged[2]["busy__delay_mean_1h"] == 6.0
    assert "busy__delay" not in logged[2]
    changed.stack.deploy(live=2)
    assert scorer.refresh()
    assert changed.ask(scorer, "after") == {(2, "live"): score(6.0)}


def test_a_model_of_the_new_version_waits_until_that_is_online(tmp_path: Path) -> None:
    publish(tmp_path / "lake", ROWS)
    world = Trips(tmp_path, WIDER)
    world.materialize(BUSY)
    world.materialize(WIDER, publish=False)
    world.model(1, BUSY, ("distance", *BUSY.columns))
    world.model(2, WIDER, ("distance", *WIDER.columns))
    world.stack.deploy(live=1, canary=(2, 0.5))
    scorer = world.scorer()
    scorer.refresh()
    assert {d.version for d in scorer.lineup.deployments} == {1}
    [reason] = scorer.lineup.failures.values()
    assert "tidemill features materialize busy" in reason
    assert world.ask(scorer, "a") == {(1, "live"): score(7.0)}, "the old version goes on being served from the old state"
    world.materialize(WIDER)
    fresh = world.scorer()
    fresh.refresh()
    assert fresh.lineup.failures == {}


def test_a_model_whose_version_is_gone_is_refused(changed: Trips) -> None:
    changed.stack.deploy(live=1)
    ViewProcessor(SqliteOnlineStore(changed.store), define(WIDER)).drop(view_digest(BUSY))
    with pytest.raises(InvalidError, match="no longer online"):
        changed.scorer().refresh()


def test_a_model_that_does_not_say_is_kept_on_what_is_served(tmp_path: Path) -> None:
    """Its columns are those of the definitions; while the new version is not online it is answered from the old one."""
    publish(tmp_path / "lake", ROWS)
    narrow = FeatureView("busy", BUSY.entity, TRIPS, BUSY.features[:2])
    world = Trips(tmp_path, WIDER)
    world.materialize(narrow)
    world.model(1, None, ("distance", *WIDER.columns))
    world.stack.deploy(live=1)
    scorer = world.scorer()
    scorer.refresh()
    assert world.ask(scorer, "a") == {(1, "live"): score(7.0)}
    world.materialize(WIDER)
    later = world.scorer()
    later.refresh()
    assert world.ask(later, "b") == {(1, "live"): score(6.0)}


def test_requests_that_bring_inputs_along_are_the_live_models(changed: Trips) -> None:
    changed.stack.deploy(live=1, canary=(2, 1.0))
    scorer = changed.scorer()
    scorer.refresh()
    request = {"distance": 3.0, "busy__delay_mean_1h": 10.0, "busy__count_1h": 1.0, "busy__delay": 1.0}
    [answer] = scorer.answer([request], scorer.plan.inputs([request], [AT]), ["a"], [AT])
    assert (answer.version, round(answer.score, 9)) == (1, min(score(10.0)))


def test_the_log_tells_when_a_version_was_last_read(changed: Trips) -> None:
    from tidemill.api.queries import versions

    changed.stack.deploy(live=1)
    scorer = changed.scorer()
    scorer.refresh()
    changed.ask(scorer, "a")
    reader = {"service": "late", "model": "late/1"}
    assert versions.last_read_us(changed.stack.log, reader, AT + MINUTE) == AT
    assert versions.last_read_us(changed.stack.log, {"service": "late", "model": "late/2"}, AT + MINUTE) is None

"""The four causes: when each holds, when it does not, and that one is open at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.loop_world import Make, World

from tidemill.core.definitions import Rollout, every, on_drift, on_new_data, on_quality
from tidemill.core.graphs import model
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.ledger.store import insert_once
from tidemill.monitoring.ports import Observation
from tidemill.monitoring.quality import quality
from tidemill.retraining.ports import Cause
from tidemill.retraining.reconcile import reconcile
from tidemill.retraining.triggers import due


def live_world(make: Make, *triggers: Any) -> World:
    """A world with a live first version, made at its start."""
    world = make(retrain=triggers)
    world.publish()
    reconcile(world.loop, world.service, world.clock.now_us())
    return world


def ask(world: World) -> Cause | None:
    return due(world.loop, world.service, world.clock.now_us())


def later(world: World, days: int) -> None:
    world.clock.advance_to(world.clock.now_us() + days * DAY_US)


def test_without_a_model_enough_data_is_cause_enough(world: World) -> None:
    assert ask(world) is None
    world.publish(rows=150)
    assert ask(world) is None
    later(world, 1)
    world.publish(rows=60)
    found = ask(world)
    assert found is not None
    assert (found.kind, found.evidence["reason"], found.evidence["rows"]) == ("new_data", "no model yet", 210)
    assert ask(world) == found
    others = replace(world.service, graph=model("other", name="told"), rollout=Rollout(), retrain=())
    assert due(world.loop, others, world.clock.now_us()) is None, "a graph of others' models has nothing to train"


def test_new_data_counts_what_was_published_since_the_last_training(make: Make) -> None:
    world = live_world(make, on_new_data("5d"))
    later(world, 6)
    assert ask(world) is None  # time went by, but nothing was published
    world.publish()
    found = ask(world)
    assert found is not None
    assert (found.kind, found.evidence["published_until_us"]) == ("new_data", world.clock.now_us())


def test_schedule_counts_from_the_last_run(make: Make) -> None:
    world = live_world(make, every("5d"))
    later(world, 4)
    assert ask(world) is None
    later(world, 1)
    found = ask(world)
    assert found is not None
    assert found.kind == "schedule"
    reconcile(world.loop, world.service, world.clock.now_us())
    assert ask(world) is None


def observed(world: World, value: float, *, n: int = 5000, version: int = 1) -> None:
    now = world.clock.now_us()
    body = {"column": "sky__temp", "top": {"sky__temp": value}}
    world.loop.metrics.write([Observation("delay", version, "psi:max", now - 7 * DAY_US, now, value, None, None, n, n, body)], at_us=now)


def test_drift_needs_the_threshold_enough_rows_the_live_version_and_the_cooldown(make: Make) -> None:
    world = live_world(make, on_drift(0.2, cooldown="10d"))
    later(world, 9)
    observed(world, 0.9)
    assert ask(world) is None
    later(world, 1)
    observed(world, 0.1)
    assert ask(world) is None
    observed(world, 0.9, n=50)
    assert ask(world) is None
    observed(world, 0.9, version=2)
    later(world, 1)
    observed(world, 0.9)
    found = ask(world)
    assert found is not None
    assert (found.kind, found.evidence["value"], found.evidence["threshold"]) == ("drift", 0.9, 0.2)
    assert "sky__temp" in found.evidence["reason"]
    later(world, 8)
    assert ask(world) is None  # what was seen is too long ago


@pytest.mark.parametrize(("worse_by", "fires"), [(0.02, True), (0.3, False)])
def test_quality_needs_the_near_end_of_the_interval_to_be_worse_than_at_the_gate(make: Make, worse_by: float, fires: bool) -> None:
    world = live_world(make, on_quality(worse_by, window="5d", cooldown="3d"))
    world.broken_canary = False
    start = world.clock.now_us()
    with world.loop.ledger.write() as db:  # the live model is not what it was
        db.execute(schema.model_version.update().values(digest="bad"))
    for day in range(8):
        world.serve(start + (day + 1) * DAY_US)
    ports: dict[str, Any] = {"log": world.loop.log, "labels": world.loop.labels, "metrics": world.loop.metrics}
    quality(world.service, 1, from_us=start, until_us=start + 8 * DAY_US, at_us=world.clock.now_us(), **ports)
    found = ask(world)
    assert (found is not None) == fires
    if found is not None:
        assert found.kind == "quality"
        assert found.evidence["low"] > found.evidence["at_gate"] + worse_by


def test_triggers_of_the_loop_override_those_of_the_service(make: Make) -> None:
    from dataclasses import replace

    world = live_world(make, every("5d"))
    later(world, 30)
    world.loop = replace(world.loop, triggers=())
    assert ask(world) is None


def set_run(world: World, status: str, cause: Cause) -> None:
    row: dict[str, Any] = {
        "id": cause.run_id,
        "pipeline": "train",
        "service": "delay",
        "cause_id": cause.id,
        "status": status,
        "params": "{}",
    }
    row |= {"graph": "{}", "code": "{}", "environment": "{}", "started_us": cause.at_us}
    with world.loop.ledger.write() as db:
        insert_once(
            db,
            schema.cause,
            {"id": cause.id, "kind": cause.kind, "service": "delay", "at_us": cause.at_us, "evidence": "{}", "run_id": None},
        )
        db.execute(schema.run.delete().where(schema.run.c.id == cause.run_id))
        insert_once(db, schema.run, row)


def test_one_cause_is_open_at_a_time_and_a_failed_run_waits_a_day(make: Make) -> None:
    world = live_world(make, every("5d"))
    later(world, 5)
    found = ask(world)
    assert found is not None
    set_run(world, "running", found)
    later(world, 30)
    assert ask(world) is None
    set_run(world, "failed", found)
    assert ask(world) is not None
    world.service = type(world.service)(
        **{f: getattr(world.service, f) for f in ("name", "features", "label", "spine", "key")}, retrain=[every("1m")]
    )
    later_cause = ask(world)
    assert later_cause is not None
    set_run(world, "failed", later_cause)
    world.clock.advance_to(world.clock.now_us() + DAY_US // 2)
    assert ask(world) is None
    world.clock.advance_to(world.clock.now_us() + DAY_US // 2)
    assert ask(world) is not None


def test_nothing_is_due_while_a_rollout_is_under_way(make: Make) -> None:
    world = live_world(make, every("5d"))
    world.train = ["fair", "good"]
    later(world, 5)
    reconcile(world.loop, world.service, world.clock.now_us())
    later(world, 9)
    assert ask(world) is None

"""Decisions by hand: promoting, taking back, and what is refused."""

from __future__ import annotations

import pytest
from tests.support.loop_world import Make, World, deployments_of

from tidemill.core.definitions import on_new_data
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.retraining import decisions, transitions
from tidemill.retraining.ports import Decision
from tidemill.retraining.reconcile import reconcile


def live_days(world: World, count: int) -> None:
    for _ in range(count):
        world.publish()
        reconcile(world.loop, world.service, world.clock.now_us())
        world.serve(world.clock.now_us() + DAY_US)


def newest(world: World, kind: str, outcome: str) -> Decision:
    return next(d for d in decisions.listing(world.loop.ledger, kind=kind) if d.outcome == outcome)


def live(world: World) -> int | None:
    found = transitions.live(world.loop.ledger, "delay")
    return found.version if found else None


@pytest.fixture
def promoted(make: Make) -> World:
    """Version 2 has just replaced version 1."""
    world = make(retrain=[on_new_data("5d")])
    world.train = ["fair", "good"]
    while live(world) != 2:
        live_days(world, 1)
    return world


def test_a_decision_is_recorded_once_with_its_event(world: World) -> None:
    made = Decision("decision-1", "gate", "delay", "delay/1", "hold", {"version": 1}, {"reason": "x", "low": float("-inf")}, "ann", 5)
    for expected in (True, False):
        with world.loop.ledger.write() as db:
            assert decisions.record(db, made) is expected
    back = decisions.read(world.loop.ledger, "decision-1")
    assert (back.outcome, back.evidence, back.actor) == ("hold", {"reason": "x", "low": None}, "ann")
    with world.loop.ledger.read() as db:
        assert [row.kind for row in db.execute(schema.event.select())] == ["decision"]
    with pytest.raises(NotFoundError, match="tidemill decisions"):
        decisions.read(world.loop.ledger, "decision-2")
    assert decisions.listing(world.loop.ledger, service="other") == []


def test_a_promotion_taken_back_puts_the_version_before_it_live(promoted: World) -> None:
    taken = newest(promoted, "rollout", "promote")
    back = decisions.reverse(promoted.loop, taken.id, "ann")
    assert (back.kind, back.outcome, back.reverses, back.actor) == ("manual", "rollback", taken.id, "ann")
    assert live(promoted) == 1
    assert {v.version: v.status for v in promoted.loop.registry.versions("delay")}[2] == "rolled_back"
    assert promoted.loop.registry.get("delay", "champion").version == 1
    assert len(deployments_of(promoted.loop.ledger, "delay")) == 1
    with pytest.raises(ConflictError, match="taken back by"):
        decisions.reverse(promoted.loop, taken.id, "ann")
    assert [
        a.kind for a in reconcile(promoted.loop, promoted.service, promoted.clock.now_us()) if a.kind in {"start", "deploy", "alias"}
    ] == []
    assert live(promoted) == 1


def test_a_promotion_by_hand_ends_a_rollout_and_can_be_taken_back(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")])
    world.train = ["fair", "good"]
    live_days(world, 6)
    assert [d["role"] for d in deployments_of(world.loop.ledger, "delay")] == ["live", "shadow"]
    made = decisions.promote(world.loop, world.service, 2, "ann", reason="cannot wait")
    assert (made.outcome, made.cause["replaces"], live(world)) == ("promote", 1, 2)
    assert [d["weight"] for d in deployments_of(world.loop.ledger, "delay")] == [1.0]
    with pytest.raises(ConflictError, match="live already"):
        decisions.promote(world.loop, world.service, 2, "ann")
    with pytest.raises(NotFoundError):
        decisions.promote(world.loop, world.service, 9, "ann")
    decisions.reverse(world.loop, made.id, "bob")
    assert live(world) == 1


def test_a_rejection_taken_back_starts_the_rollout(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")])
    world.train = ["good", "fair"]
    live_days(world, 6)
    refused = newest(world, "gate", "reject")
    again = decisions.reverse(world.loop, refused.id, "ann")
    assert (again.outcome, again.subject) == ("retry", "delay/2")
    assert [(d["version"], d["role"]) for d in deployments_of(world.loop.ledger, "delay")] == [(1, "live"), (2, "shadow")]
    with pytest.raises(ConflictError, match="taken back by"):
        decisions.reverse(world.loop, refused.id, "ann")


def test_what_cannot_be_taken_back_says_why(promoted: World) -> None:
    loop = promoted.loop
    first = next(d for d in decisions.listing(loop.ledger, kind="rollout") if d.subject == "delay/1")
    with pytest.raises(InvalidError, match="first version"):
        decisions.reverse(loop, first.id, "ann")
    with pytest.raises(InvalidError, match="into its rollout"):
        decisions.reverse(loop, newest(promoted, "gate", "promote").id, "ann")
    with pytest.raises(InvalidError, match="trigger: retrain"):
        decisions.reverse(loop, newest(promoted, "trigger", "retrain").id, "ann")
    with pytest.raises(NotFoundError):
        decisions.reverse(loop, "decision-x", "ann")
    by_hand = decisions.promote(loop, promoted.service, 1, "ann")
    with pytest.raises(ConflictError, match="overtaken"):
        decisions.reverse(loop, newest(promoted, "rollout", "promote").id, "ann")
    assert by_hand.outcome == "promote"


def test_a_move_from_a_state_that_is_gone_changes_nothing(promoted: World) -> None:
    found = transitions.live(promoted.loop.ledger, "delay")
    assert found is not None
    stale = Decision("decision-9", "rollout", "delay", "delay/2", "advance", {}, {}, "ann", promoted.clock.now_us())
    gone = transitions.Deployed(**{f: getattr(found, f) for f in found.__slots__} | {"role": "canary", "stage": 7})

    def move() -> None:
        with promoted.loop.ledger.write() as db:
            decisions.record(db, stale)
            transitions.advance(db, gone, 0.5, stale)

    with pytest.raises(ConflictError, match="no longer canary"):
        move()
    assert transitions.live(promoted.loop.ledger, "delay") == found
    with pytest.raises(NotFoundError):
        decisions.read(promoted.loop.ledger, "decision-9")

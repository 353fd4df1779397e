"""Blue/green, Thompson and the limits: what the loop does with each, and what a setting that cannot be honoured says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.support.loop_world import Make, World, deployments_of
from tests.unit.retraining.test_reconcile import days, outcomes, statuses, turn

from tidemill.core.definitions import Rollout, on_new_data
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US
from tidemill.ledger import tallies
from tidemill.ledger.tallies import Counts
from tidemill.monitoring.ports import Observation
from tidemill.retraining import decisions, transitions
from tidemill.retraining.limits import limits
from tidemill.retraining.shares import Arm, best, shares


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "green"}, "there is canary, blue_green, thompson"),
        ({"kind": "thompson", "sticky": "carrier"}, "would move an entity"),
        ({"kind": "blue_green", "canary": (0.2,)}, "has no canary weights"),
        ({"warm": "2d"}, "belongs to kind='blue_green'"),
        ({"floor": 0.2}, "belongs to kind='thompson'"),
        ({"kind": "thompson", "floor": 0.6}, "at most half"),
        ({"canary": (0.5, 0.1)}, "and grow"),
        ({"canary": (0.0,)}, "between 0 and 1"),
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"errors": 1.5}, "at least 0 and below 1"),
        ({"drift": -0.1}, "at least 0"),
        ({"settle": "months"}, "traffic, days"),
        ({"slow": "fast"}, "fast"),
    ],
)
def test_what_cannot_be_honoured_is_refused_when_it_is_written(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        Rollout(**settings)


def roles(world: World) -> dict[int, tuple[str, float]]:
    return {d["version"]: (d["role"], d["weight"]) for d in deployments_of(world.loop.ledger, "delay")}


def until(world: World, version: int, role: str) -> None:
    for _ in range(20):
        if roles(world).get(version, ("", 0))[0] == role:
            return
        days(world, 1)
    raise AssertionError(f"version {version} never became {role}: {roles(world)}")


BLUE_GREEN = Rollout(kind="blue_green", warm="2d")


def test_blue_green_switches_at_once_and_keeps_the_old_one_warm_for_a_while(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=BLUE_GREEN)
    world.train = ["fair", "good"]
    until(world, 2, "live")
    assert roles(world) == {1: ("warm", 0.0), 2: ("live", 1.0)}
    assert statuses(world) == {1: "warm", 2: "champion"}
    until_retired = days(world, 3)
    assert ("move", 2) in until_retired
    assert roles(world) == {2: ("live", 1.0)}
    assert {version: statuses(world)[version] for version in (1, 2)} == {1: "retired", 2: "champion"}
    assert outcomes(world, "rollout")[-2:] == [("delay/2", "promote"), ("delay/2", "settle")]
    assert decisions.listing(world.loop.ledger, kind="rollout")[0].evidence["phase"] == "live"


def test_blue_green_goes_back_when_what_was_switched_to_is_worse(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=Rollout(kind="blue_green", warm="5d"))
    world.train = ["fair", "good"]
    until(world, 2, "live")
    with world.loop.ledger.read() as db:
        first = transitions.read_warm(db, "delay")
    assert first is not None
    world.broken_live = 2
    until(world, 1, "live")
    (back,) = decisions.listing(world.loop.ledger, kind="rollback")
    assert (back.subject, back.outcome, back.evidence["low"] > 0) == ("delay/2", "rollback", True)
    assert roles(world)[1] == ("live", 1.0)
    assert 2 not in roles(world)
    live = transitions.live(world.loop.ledger, "delay")
    assert live is not None
    assert live.id == first.id, "the warm deployment answers again, none is made anew"
    assert {version: statuses(world)[version] for version in (1, 2)} == {1: "champion", 2: "rolled_back"}
    assert world.loop.registry.get("delay", "champion").version == 1


def test_a_person_goes_back_to_what_is_warm(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=BLUE_GREEN)
    world.train = ["fair", "good"]
    until(world, 2, "live")
    live = transitions.live(world.loop.ledger, "delay")
    assert live is not None
    decisions.reverse(world.loop, live.decision_id, "ann")
    assert roles(world) == {1: ("live", 1.0)}
    assert [a.kind for a in turn(world)] == []


def test_thompson_moves_shares_to_the_better_version_and_promotes_it(make: Make) -> None:
    world = make(rollout=Rollout(kind="thompson", floor=0.1, bake="1d", margin=0.05))
    world.train = ["fair"]
    days(world, 1)
    at = world.clock.now_us()
    for n, skill in enumerate(("good", "good")):
        world.loop.registry.register("delay", skill, run_id=f"by-hand-{n}", metrics={}, meta={}, at_us=at)
    seen: list[dict[int, tuple[str, float]]] = []
    for _ in range(12):
        days(world, 1)
        seen.append(roles(world))
        weights = [w for _, w in seen[-1].values()]
        assert sum(weights) == pytest.approx(1.0)
        assert all(w >= 0.1 - 1e-9 for r, w in seen[-1].values() if r != "shadow")
    assert any(sum(r == "canary" for r, _ in found.values()) == 2 for found in seen), seen
    made = [d for d in decisions.listing(world.loop.ledger, kind="rollout") if d.outcome == "weigh"]
    assert len(made) >= 2
    for decision in made:
        arms = decision.evidence["arms"]
        assert sum(arm["weight"] for arm in arms) == pytest.approx(1.0)
        assert decision.evidence["floor"] == 0.1
    later = made[0].evidence["arms"]
    assert later[-1]["weight"] < 0.3, "the live version, which is worse, has lost its share"


def test_thompson_takes_a_worse_version_out(make: Make) -> None:
    world = make(rollout=Rollout(kind="thompson", floor=0.2))
    world.train = ["fair"]
    days(world, 1)
    world.loop.registry.register("delay", "good", run_id="by-hand", metrics={}, meta={}, at_us=world.clock.now_us())
    world.broken_canary = True
    for _ in range(6):
        days(world, 1)
    assert ("delay/2", "rollback") in outcomes(world, "rollback")
    assert roles(world) == {1: ("live", 1.0)}


def start(world: World) -> str:
    world.train = ["fair", "good"]
    until(world, 2, "shadow")
    with world.loop.ledger.read() as db:
        return transitions.read_candidates(db, "delay")[0].id


def count(world: World, deployment: str, process: str, counts: Counts, role: str = "shadow") -> None:
    with world.loop.ledger.write() as db:
        tallies.state(db, process, {deployment: {role: counts}}, at_us=world.clock.now_us())


@pytest.mark.parametrize(
    ("plan", "counts", "name"),
    [
        (Rollout(shadow="3d"), Counts(400, 40, 0), "errors"),
        (Rollout(shadow="3d", errors=None, slow="20ms"), Counts(400, 0, 30), "slow"),
        (Rollout(shadow="3d", errors=0.0), Counts(400, 1, 0), "errors"),
    ],
)
def test_a_broken_limit_takes_a_candidate_back_with_its_evidence(make: Make, plan: Rollout, counts: Counts, name: str) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=plan)
    deployment = start(world)
    count(world, deployment, "one", Counts(counts.calls, 0, 0))
    assert turn(world) == []
    count(world, deployment, "two", counts)
    count(world, deployment, "two", counts)  # stated twice, counted once
    assert [(a.kind, a.version) for a in turn(world)] == [("move", 2)]
    decision = decisions.listing(world.loop.ledger, kind="rollout")[0]
    assert (decision.subject, decision.outcome) == ("delay/2", "reject")
    broken = [limit for limit in decision.evidence["limits"] if limit["broken"]]
    assert [(limit["name"], limit["n"]) for limit in broken] == [(name, 800)]
    assert "calls" in decision.evidence["reason"]
    with world.loop.ledger.read() as db:
        assert tallies.read(db, deployment) == {}


def test_counts_of_another_role_do_not_judge(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=Rollout(shadow="3d"))
    count(world, start(world), "one", Counts(400, 400, 0), role="canary")
    assert turn(world) == []


@pytest.mark.parametrize(("rows", "taken_back"), [(150, False), (500, True)])
def test_drift_of_a_candidates_inputs_takes_it_back_once_there_are_enough_rows(make: Make, rows: int, taken_back: bool) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=Rollout(shadow="3d", drift=0.25))
    start(world)
    now = world.clock.now_us()
    seen = Observation("delay", 2, "psi:max", now - DAY_US, now, 0.4, None, None, rows, rows, {"column": "signal"})
    world.loop.metrics.write([seen], at_us=now)
    assert bool(turn(world)) == taken_back
    if taken_back:
        assert "drifted by 0.400" in decisions.listing(world.loop.ledger, kind="rollout")[0].evidence["reason"]


def test_limits_that_are_not_set_are_not_looked_at() -> None:
    assert limits(Rollout(errors=None), Counts(100, 100, 100), None) == ()
    assert not limits(Rollout(), Counts(), None)[0].broken


def test_chances_are_those_of_a_simulation() -> None:
    arms = {"a": Arm(-0.02, 0.01, 500), "b": Arm(-0.01, 0.02, 500), "c": Arm(0.01, 0.01, 500)}
    found, live = best(arms)
    rng = np.random.default_rng(1)
    drawn = np.stack([rng.normal(a.mean, a.error, size=400_000) for a in arms.values()] + [np.zeros(400_000)])
    wins = np.bincount(drawn.argmin(axis=0), minlength=4) / 400_000
    assert [*found.values(), live] == pytest.approx(wins.tolist(), abs=0.005)


def test_shares_keep_the_floor_and_wait_for_labels() -> None:
    weights, chances = shares({"a": Arm(-1.0, 0.01, 500), "b": Arm(-9.0, 0.01, 5)}, floor=0.1, enough=100)
    assert weights == pytest.approx({"a": 0.8, "b": 0.1, "": 0.1})
    assert "b" not in chances
    assert shares({}, floor=0.1, enough=1) == ({"": 1.0}, {"": 1.0})

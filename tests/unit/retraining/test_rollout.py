"""The rollout's judgement: what is paired, what may count yet, and what follows."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from tests.support.loop_world import START, World

from tidemill.core.definitions import Rollout
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.monitoring.ports import LabelRow
from tidemill.retraining.rollout import Look, decide, look, pair, verdict
from tidemill.retraining.sequences import Interval
from tidemill.retraining.transitions import Deployed
from tidemill.serving.ports import Prediction, Role

PLAN = Rollout(shadow="1d", canary=(0.1, 0.5), bake="2d", margin=0.02, min_labels=100, give_up="14d")


def deployed(role: str = "shadow", stage: int = 0, since_us: int = START) -> Deployed:
    return Deployed("d2", "delay", "delay", 2, role, 0.0, stage, "x", since_us, START, None)


def seen(low: float, bound: float, n: int = 500, in_stage: int = 500, role: str = "shadow") -> Look:
    return Look(role, Interval((low + bound) / 2, low, bound + 0.5, n, 1.0), in_stage, 0, 0.5, 0.5, 0.01, bound)


@pytest.mark.parametrize(
    ("candidate", "view", "after_days", "move"),
    [
        (deployed(), seen(-0.01, 0.01), 0.5, "wait"),
        (deployed(), seen(-0.01, 0.01), 1, "advance"),
        (deployed(), seen(-0.01, 0.19), 1, "advance"),
        (deployed(), seen(-0.01, 0.21), 1, "wait"),
        (deployed("canary", 1), seen(-0.01, 0.04), 2, "advance"),
        (deployed("canary", 1), seen(-0.01, 0.05), 2, "wait"),
        (deployed("canary", 2), seen(-0.01, 0.03), 2, "wait"),
        (deployed(), seen(-0.01, 0.01, in_stage=99), 1, "wait"),
        (deployed(), seen(0.001, 0.03), 0.1, "reject"),
        (deployed(), seen(0.001, 0.01), 1, "reject"),
        (deployed(), seen(0.5, 0.9, n=99), 1, "wait"),
        (deployed(), seen(-inf, inf, n=0), 14, "reject"),
        (deployed("canary", 1), seen(-0.01, 0.01), 1, "wait"),
        (deployed("canary", 1), seen(-0.01, 0.01), 2, "advance"),
        (deployed("canary", 2), seen(-0.01, 0.01), 2, "promote"),
        (deployed("canary", 2), seen(0.001, 0.01), 0.1, "rollback"),
        (deployed("canary", 1), seen(-0.01, 0.05), 14, "rollback"),
    ],
)
def test_verdicts(candidate: Deployed, view: Look, after_days: float, move: str) -> None:
    assert verdict(PLAN, candidate, view, START + int(after_days * DAY_US))[0] == move


def log(world: World, id_: str, at_us: int, scores: dict[tuple[int, Role], float]) -> None:
    world.loop.log.append([Prediction(id_, "delay", "delay", v, role, at_us, s, ("signal",), (0.0,)) for (v, role), s in scores.items()])


def label(world: World, id_: str, value: float, known_us: int) -> None:
    world.loop.labels.write([LabelRow("late", id_, value, known_us, known_us)])


def test_rows_enter_in_order_up_to_the_first_whose_label_may_still_come(world: World) -> None:
    for i in range(6):
        log(world, f"r{i}", START + i, {(1, "live"): 0.5, (2, "shadow"): 0.8})
    for i in (0, 1, 3, 4):
        label(world, f"r{i}", 1.0, START + HOUR_US)
    candidate = deployed()
    early = pair(world.loop, world.service, candidate, 1, START + 2 * HOUR_US)[0]
    assert early.at_us.tolist() == [START, START + 1]
    assert early.waiting == 4
    matured = pair(world.loop, world.service, candidate, 1, START + 7 * HOUR_US)[
        0
    ]  # labels mature after 6 h: what is missing will not come
    assert matured.at_us.tolist() == [START, START + 1, START + 3, START + 4]
    assert matured.waiting == 0
    assert matured.difference == pytest.approx(np.full(4, -np.log(0.8) + np.log(0.5)))


def test_a_canary_is_judged_by_what_it_answered_itself(world: World) -> None:
    log(world, "a", START, {(1, "live"): 0.5, (2, "shadow"): 0.9})
    log(world, "b", START + 1, {(1, "shadow"): 0.5, (2, "canary"): 0.1})
    log(world, "c", START + 2, {(2, "canary"): 0.1})  # the live model did not score it: no pair
    for id_ in "abc":
        label(world, id_, 1.0, START + HOUR_US)
    pairs, mine, theirs = pair(world.loop, world.service, deployed("canary", 1), 1, START + DAY_US)
    assert pairs.at_us.tolist() == [START + 1]
    assert (mine.tolist(), theirs.tolist()) == ([pytest.approx(-np.log(0.1))], [pytest.approx(-np.log(0.5))])
    assert pair(world.loop, world.service, deployed("shadow"), 1, START + DAY_US)[0].at_us.tolist() == [START]


def test_a_look_counts_the_stage_and_keeps_its_history(world: World) -> None:
    for i in range(40):
        at = START + i * DAY_US // 10
        log(world, f"r{i}", at, {(1, "live"): 0.5, (2, "shadow"): 0.5 + 0.01 * (i % 7)})
        label(world, f"r{i}", 1.0, at + HOUR_US)
    candidate = replace(deployed(), since_us=START + 2 * DAY_US)
    found = look(world.loop, world.service, candidate, 1, START + 10 * DAY_US, (0.02, 6))
    assert (found.interval.n, found.in_stage) == (40, 20)
    assert [point[1] for point in found.series] == [10, 20, 30, 40]
    assert found.series[-1][2:] == (found.interval.mean, found.interval.low, found.interval.high)
    assert found.interval.design_effect == pytest.approx(1 + 9 * found.icc)
    assert found.interval.mean < found.bound < found.interval.high
    body = found.as_json()
    assert (body["n"], body["icc"], len(body["series"])) == (40, found.icc, 4)


def test_a_rollout_without_canaries_goes_from_shadow_to_live() -> None:
    bare = Rollout(shadow="1d", canary=(), margin=0.02)
    assert verdict(bare, deployed(), seen(-0.01, 0.03), START + DAY_US)[0] == "wait"
    assert verdict(bare, deployed(), seen(-0.01, 0.01), START + DAY_US)[0] == "promote"


def test_nothing_labelled_is_no_interval_and_no_decision(world: World) -> None:
    found = look(world.loop, world.service, deployed(), 1, START + DAY_US)
    assert (found.interval.low, found.interval.high, found.interval.n) == (-inf, inf, 0)
    assert found.mean_live is None
    assert decide(world.service, deployed(), 1, found, START + DAY_US) is None


def test_a_decision_is_named_by_deployment_and_stage(world: World) -> None:
    one = decide(world.service, deployed(), 1, seen(-0.01, 0.01), START + 2 * DAY_US)
    two = decide(world.service, deployed(), 1, seen(-0.02, 0.01), START + 3 * DAY_US)
    on = decide(world.service, deployed("canary", 1), 1, seen(-0.01, 0.01), START + 3 * DAY_US)
    assert one is not None
    assert two is not None
    assert on is not None
    assert one.id == two.id != on.id
    assert (one.kind, one.outcome, one.evidence["next_weight"]) == ("rollout", "advance", 0.2)

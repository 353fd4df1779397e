"""The gate: right decisions, its error rate, its veto, and its evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.support.loop_world import START, World

from tidemill.core.definitions import Gate
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US
from tidemill.retraining.gate import decide, judge
from tidemill.retraining.ports import Decision, HoldoutRows
from tidemill.retraining.reconcile import reconcile

BLOCKS = np.repeat(np.arange(14), 100)


def losses(seed: int, effect: float, *, shared: float = 0.02, blocks: Any = BLOCKS) -> tuple[Any, Any]:
    """Champion's and challenger's losses, with a day effect in their difference."""
    rng = np.random.default_rng(seed)
    champion = rng.exponential(0.5, size=blocks.size)
    day = rng.normal(scale=shared, size=int(blocks.max()) + 1)[blocks]
    return champion, champion + effect + day + rng.normal(scale=0.1, size=blocks.size)


def test_a_better_challenger_is_promoted_with_its_evidence() -> None:
    found = judge(*losses(0, -0.05), BLOCKS, Gate())
    assert found.outcome == "promote"
    assert found.p is not None
    assert found.effect is not None
    assert found.low is not None
    assert found.high is not None
    assert found.p < 0.001
    assert found.low < found.effect < found.high < 0
    assert (found.n, found.blocks, found.level) == (1400, 14, 0.9)
    assert sum(n * d for _, n, d in found.differences) / 1400 == pytest.approx(found.effect)
    assert found.mean_challenger == pytest.approx((found.mean_champion or 0) + found.effect)


def test_the_interval_decides_as_the_test_does() -> None:
    for seed in range(60):
        found = judge(*losses(seed, -0.012), BLOCKS, Gate())
        assert found.high is not None
        assert (found.outcome == "promote") == (found.high < 0)


def test_equal_worse_and_too_small_are_rejected() -> None:
    champion, _ = losses(0, 0.0)
    equal = judge(champion, champion.copy(), BLOCKS, Gate())
    assert (equal.outcome, equal.p) == ("reject", 1.0)
    assert "exactly" in equal.reason
    assert judge(*losses(1, 0.05), BLOCKS, Gate()).outcome == "reject"
    assert judge(*losses(0, -0.05), BLOCKS, Gate(min_effect=0.08)).outcome == "reject"
    assert judge(champion, champion - 0.01, BLOCKS, Gate()).outcome == "promote"


def test_too_few_blocks_is_a_hold() -> None:
    found = judge(*losses(0, -0.5, blocks=BLOCKS[:400]), BLOCKS[:400], Gate(min_blocks=5))
    assert (found.outcome, found.p) == ("hold", None)
    assert "4 blocks of 1d" in found.reason
    empty = np.empty(0)
    assert judge(empty, empty, empty.astype(np.int64), Gate()).outcome == "hold"


def test_what_cannot_be_compared_is_an_error() -> None:
    champion, challenger = losses(0, 0.0)
    with pytest.raises(InvalidError, match="align"):
        judge(champion[:5], challenger, BLOCKS, Gate())
    challenger[3] = np.nan
    with pytest.raises(InvalidError, match="finite"):
        judge(champion, challenger, BLOCKS, Gate())


@pytest.mark.parametrize("blocks", [7, 14])
def test_equals_are_promoted_no_more_often_than_alpha(blocks: int) -> None:
    runs, promoted = 1000, 0
    rng = np.random.default_rng(blocks)
    for seed in range(runs):
        sizes = rng.integers(60, 140, size=blocks)
        promoted += (
            judge(*losses(seed, 0.0, blocks=np.repeat(np.arange(blocks), sizes)), np.repeat(np.arange(blocks), sizes), Gate()).outcome
            == "promote"
        )
    assert promoted / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_treating_rows_as_independent_would_break_the_rate() -> None:
    promoted = sum(judge(*losses(s, 0.0), np.arange(1400), Gate()).outcome == "promote" for s in range(200))
    assert promoted / 200 > 0.12


def test_a_slice_that_is_worse_vetoes_and_chance_does_not() -> None:
    champion, challenger = losses(0, -0.05)
    group = np.where(np.arange(1400) % 5 == 0, "LGA", "JFK")
    fine = judge(champion, challenger, BLOCKS, Gate(), {"origin": list(group)})
    assert fine.outcome == "promote"
    assert {s["group"] for s in fine.slices} == {"LGA", "JFK"}
    hurt = challenger + np.where(group == "LGA", 0.12, 0.0)
    vetoed = judge(champion, hurt, BLOCKS, Gate(), {"origin": list(group)})
    assert vetoed.outcome == "reject"
    assert "origin is LGA" in vetoed.reason
    assert judge(champion, hurt, BLOCKS, Gate()).outcome == "promote"


def test_false_vetoes_are_held_to_alpha_over_all_slices() -> None:
    vetoes = 0
    for seed in range(300):
        champion, challenger = losses(seed, 0.0)
        found = judge(champion, challenger, BLOCKS, Gate(), {"s": list(np.arange(1400) % 4)})
        assert all(s["p"] <= s["p_holm"] <= 1 for s in found.slices)
        vetoes += any(s["vetoes"] for s in found.slices)
    assert vetoes / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def register(world: World, skill: str) -> int:
    made = world.loop.registry.register("delay", skill, run_id=f"run-{skill}", metrics={}, meta={}, at_us=START)
    return made.version


def decided(world: World, skill: str) -> Decision:
    return decide(world.loop, world.service, register(world, skill))


def test_the_first_model_must_beat_the_constant_prior(world: World) -> None:
    found = decided(world, "fair")
    assert (found.outcome, found.evidence["against"], found.evidence["champion"]) == ("promote", "constant prior", None)
    assert decided(world, "flipped").outcome == "reject"
    assert found.evidence["until_us"] - found.evidence["from_us"] < 14 * DAY_US


def test_against_a_champion(world: World) -> None:
    world.publish()
    reconcile(world.loop, world.service, world.clock.now_us())
    better, flipped = decided(world, "good"), decided(world, "flipped")
    assert (better.outcome, better.evidence["against"], better.evidence["champion"]) == ("promote", "champion", 1)
    assert better.cause["champion"] == 1
    assert flipped.outcome == "reject"
    assert decided(world, "good").id == better.id


def test_columns_are_matched_by_name_and_a_missing_one_is_told(world: World) -> None:
    version = register(world, "fair")
    rows = world.loop.holdout(world.loop.registry.get("delay", version))

    def wider(columns: tuple[str, ...]) -> HoldoutRows:
        return HoldoutRows(columns, [("x", *r) if columns[0] == "other" else r for r in rows.rows], rows.labels, rows.at_us, 0.5)

    again = decide(replace(world.loop, holdout=lambda _v: wider(("other", "signal"))), world.service, version)
    plain = decide(world.loop, world.service, version)
    assert again.evidence["effect"] == plain.evidence["effect"]
    lacking = decide(replace(world.loop, holdout=lambda _v: wider(("noise",))), world.service, version)
    assert lacking.outcome == "reject"
    assert "needs signal" in lacking.evidence["reason"]


def test_without_held_out_rows_it_holds_and_says_why(world: World) -> None:
    def none(_version: object) -> HoldoutRows:
        raise InvalidError("it was never evaluated")

    found = decide(replace(world.loop, holdout=none), world.service, register(world, "fair"))
    assert (found.outcome, found.evidence["n"]) == ("hold", 0)
    assert "never evaluated" in found.evidence["reason"]

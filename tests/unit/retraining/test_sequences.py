"""Confidence sequences: they add up, they hold at every look, and the design effect is what makes them hold."""

from __future__ import annotations

from math import inf, isinf

import numpy as np
import pytest

from tidemill.core.definitions import Rollout
from tidemill.retraining.rollout import bound, interval
from tidemill.retraining.sequences import DEFAULT_ICC, Sums, asymptotic, empirical_bernstein, intraclass, sums, upper_icc

ALPHA, MIN_LABELS, GATE_DAYS, DAYS = 0.05, 100, 7, 14


def day_of(rng: np.random.Generator, count: int, icc: float, mean: float = 0.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Differences of one day: a shared day effect and heavy-tailed rows; variance 1."""
    rows = rng.standard_t(4, size=count) / 2**0.5
    return np.asarray(mean + icc**0.5 * rng.normal() + (1 - icc) ** 0.5 * rows)


def test_sums_of_disjoint_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    d, block = rng.normal(size=300), np.repeat(np.arange(6), 50)
    first = block < 2
    merged, whole = sums(d[first], block[first]) + sums(d[~first], block[~first]), sums(d, block)
    assert (merged.n, merged.pairs) == (whole.n, whole.pairs)
    assert merged.total == pytest.approx(whole.total)
    assert whole.variance == pytest.approx(float(d.var(ddof=1)))
    assert whole.design_effect(0.1) == pytest.approx(1 + 49 * 0.1)


def test_nothing_and_one_row_say_nothing() -> None:
    for given in (Sums(), Sums(1, 0.3, 0.09, 1.0)):
        found = asymptotic(given, alpha=ALPHA, target=500)
        assert isinf(found.low)
        assert isinf(found.high)
    assert Sums().variance == inf
    assert Sums().design_effect(0.5) == 1.0


def test_equal_models_have_no_width() -> None:
    found = asymptotic(sums(np.zeros(200), np.repeat([0, 1], 100)), alpha=ALPHA, target=500)
    assert (found.low, found.high) == (0.0, 0.0)


def test_it_is_wider_than_one_fixed_look_but_not_by_much_and_shrinks() -> None:
    rng = np.random.default_rng(3)
    halves = []
    for n in (200, 500, 2000, 20000):
        d = rng.normal(size=n)
        found = asymptotic(sums(d, np.arange(n)), alpha=ALPHA, target=500, icc=0.0)
        halves.append((found.high - found.low) / 2 / (1.96 * d.std() / n**0.5))
    assert all(1.2 < ratio < 2.2 for ratio in halves)


def test_the_intraclass_correlation_is_found_with_its_upper_limit() -> None:
    rng = np.random.default_rng(4)
    block = np.repeat(np.arange(60), 200)
    found, degrees = intraclass(np.concatenate([day_of(rng, 200, 0.05) for _ in range(60)]), block)
    assert found == pytest.approx(0.05, abs=0.025)
    assert degrees == 59
    assert intraclass(np.zeros(20), np.repeat([0, 1], 10)) == (0.0, 1)
    assert intraclass(rng.normal(size=5), np.zeros(5, dtype=np.int64)) == (0.0, 0)


def test_the_upper_limit_comes_down_with_more_blocks_and_pools_what_is_known() -> None:
    limits = [upper_icc((0.02, degrees), size=900) for degrees in (4, 13, 60)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] > 0.02
    assert upper_icc((0.02, 30), (0.02, 30), size=900) == pytest.approx(limits[-1])
    assert upper_icc((0.0, 0), (0.0, 0), size=900) == DEFAULT_ICC == upper_icc((0.2, 5), size=0)


def rates(
    runs: int, *, icc: float, mean: float, rows: int, margin: float = 0.05, honest: bool = True, seed: int = 0
) -> tuple[float, float]:
    """Simulate rollouts with four looks a day.

    Returns:
        The shares in which harm was claimed at any look (lower end > 0), and in which a cost of at most the margin was claimed at any
        look at which the traffic so far, with the luck of its days, had really cost more.
    """
    rng = np.random.default_rng(seed)
    gate_blocks, plan = np.repeat(np.arange(GATE_DAYS), 900), Rollout(alpha=ALPHA, min_labels=MIN_LABELS)
    harm = wrongly_safe = 0
    for _ in range(runs):
        gated = intraclass(np.concatenate([day_of(rng, 900, icc) for _ in range(GATE_DAYS)]), gate_blocks)
        luck = mean + icc**0.5 * rng.normal(size=DAYS)
        days = [luck_of_day + (1 - icc) ** 0.5 * rng.standard_t(4, size=rows) / 2**0.5 for luck_of_day in luck]
        so_far, claimed_harm, wrong = Sums(), False, False
        for number, d in enumerate(days):
            own = intraclass(np.concatenate(days[: number + 1]), np.repeat(np.arange(number + 1), rows))
            used = upper_icc(gated, own, size=rows) if honest else 0.0
            before = so_far
            for count in (rows // 4, rows // 2, rows * 3 // 4, rows):
                so_far = before + sums(d[:count], np.zeros(count, dtype=np.int64))
                if so_far.n >= MIN_LABELS:
                    cost = (luck[:number].sum() * rows + luck[number] * count) / so_far.n
                    claimed_harm |= interval(so_far, plan, used).low > 0
                    wrong |= bool(bound(so_far, plan) <= margin < cost)
        harm += claimed_harm
        wrongly_safe += wrong
    return harm / runs, wrongly_safe / runs


@pytest.mark.parametrize(("icc", "rows"), [(0.0, 90), (0.02, 90), (0.02, 900)])
def test_looking_all_the_time_rolls_equals_back_no_more_often_than_stated(icc: float, rows: int) -> None:
    runs = 300
    harm, _ = rates(runs, icc=icc, mean=0.0, rows=rows)
    assert harm <= ALPHA / 2 + 3 * (ALPHA / 2 / runs) ** 0.5


@pytest.mark.parametrize("icc", [0.0, 0.02])
def test_what_cost_more_than_the_margin_is_called_safe_no_more_often_than_stated(icc: float) -> None:
    runs = 300
    _, safe = rates(runs, icc=icc, mean=0.051, rows=900)
    assert safe <= ALPHA + 3 * (ALPHA / runs) ** 0.5


def test_without_the_design_effect_the_promise_would_be_broken() -> None:
    harm, _ = rates(150, icc=0.02, mean=0.0, rows=900, honest=False)
    assert harm > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("icc", "rows"), [(0.0, 90), (0.0, 900), (0.01, 450), (0.05, 90), (0.05, 900)])
def test_two_thousand_rollouts_keep_the_rates(icc: float, rows: int) -> None:
    runs = 2000
    harm, _ = rates(runs, icc=icc, mean=0.0, rows=rows, seed=1)
    _, safe = rates(runs, icc=icc, mean=0.051, rows=rows, seed=2)
    assert harm <= ALPHA / 2 + 3 * (ALPHA / 2 / runs) ** 0.5
    assert safe <= ALPHA + 3 * (ALPHA / runs) ** 0.5


def test_empirical_bernstein_holds_exactly_and_is_strict() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(300):
        low, high = empirical_bernstein(rng.uniform(-1, 1, size=400) * 0.3, bound=1.0, alpha=ALPHA)
        missed += bool((low > 0).any() or (high < 0).any())
        assert (np.diff(low) >= 0).all()
        assert (np.diff(high) <= 0).all()
    assert missed / 300 <= ALPHA


def test_empirical_bernstein_finds_real_harm_and_narrows_to_it() -> None:
    rng = np.random.default_rng(6)
    low, high = empirical_bernstein(0.2 + 0.1 * rng.uniform(-1, 1, size=2000), bound=1.0, alpha=ALPHA)
    assert 0 < low[-1] < 0.2 < high[-1] < 0.25

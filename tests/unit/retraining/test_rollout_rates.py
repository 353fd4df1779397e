"""Two thousand rollouts of equal models, and of worse ones: how often the state machine is wrong, over all its looks, limits included."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tidemill.core.definitions import Rollout
from tidemill.core.instants import DAY_US
from tidemill.ledger.tallies import Counts
from tidemill.retraining.limits import limits, log_evidence
from tidemill.retraining.rollout import Look, bound, interval, verdict
from tidemill.retraining.sequences import intraclass, sums, upper_icc
from tidemill.retraining.transitions import Deployed

RUNS, ROWS, DAYS, GATE_DAYS, LOOKS = 2000, 160, 15, 7, 2
SPREAD = 0.12
ALPHA = 0.05


def allowed(rate: float) -> float:
    """What chance may add to a rate that is exactly kept."""
    return float(rate + 3 * (rate / RUNS) ** 0.5)


class Simulation:
    """Differences of losses of every run, day and row; failures and slow calls exactly at their limits. Drawn at once, then judged run by run."""

    def __init__(self, plan: Rollout, *, mean: float, icc: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        luck = icc**0.5 * rng.normal(size=(RUNS, GATE_DAYS + DAYS, 1))
        rows = rng.standard_t(4, size=(RUNS, GATE_DAYS + DAYS, ROWS)).astype(np.float32) / 2**0.5
        self.luck = mean + SPREAD * luck[:, GATE_DAYS:, 0]
        self.differences = mean + SPREAD * (luck + (1 - icc) ** 0.5 * rows)
        self.failed = rng.binomial(1, plan.errors or 0.0, size=(RUNS, DAYS, ROWS)).cumsum(axis=2)
        self.slow = rng.binomial(1, plan.slow_share, size=(RUNS, DAYS, ROWS)).cumsum(axis=2)
        self.plan = plan
        self.looks = 0
        self.ends: Counter[str] = Counter()
        self.wrong = 0
        for run in range(RUNS):
            end, cost = self._live_through(run)
            self.ends[end] += 1
            self.wrong += end == "promote" and cost > plan.margin

    def _live_through(self, run: int) -> tuple[str, float]:
        """The outcome of one rollout, and what its candidate really cost a request of the phase that it ended in."""
        gated = intraclass(self.differences[run, :GATE_DAYS].ravel().astype(np.float64), np.repeat(np.arange(GATE_DAYS), ROWS))
        deployed = Deployed("d", "s", "s", 2, "shadow", 0.0, 0, "x", 0, 0, None)
        first_day, counts, before = 0, Counts(), 0
        for day in range(DAYS):
            share, so_far = round(ROWS * (deployed.weight or 1.0)), counts
            for part in range(1, LOOKS + 1):
                self.looks += 1
                now, last = day * DAY_US + part * DAY_US // LOOKS, share * part // LOOKS
                seen = [self.differences[run, GATE_DAYS + d, :n] for d, n in self._sizes(first_day, day, last, deployed)]
                blocks = np.repeat(np.arange(len(seen)), [x.size for x in seen])
                so_far = counts + Counts(last, int(self.failed[run, day, last - 1]), int(self.slow[run, day, last - 1]))
                move, why = verdict(self.plan, deployed, self._look(deployed, np.concatenate(seen), blocks, gated, so_far, before), now)
                if move in ("reject", "rollback", "promote"):
                    costs = np.repeat(self.luck[run, first_day : day + 1], [x.size for x in seen])
                    return "not settled" if why.startswith("not settled") else move, float(costs.mean())
                if move == "advance":  # the next stage begins with the next day
                    role_changes = deployed.role == "shadow"
                    weight = self.plan.canary[deployed.stage]
                    deployed = replace(deployed, role="canary", weight=weight, stage=deployed.stage + 1, since_us=(day + 1) * DAY_US)
                    first_day = day + 1 if role_changes else first_day
                    so_far = Counts() if role_changes else so_far
                    before = 0 if role_changes else before + sum(x.size for x in seen)
                    break
            counts = so_far
        return "not settled", 0.0

    def _sizes(self, first: int, day: int, last: int, deployed: Deployed) -> list[tuple[int, int]]:
        """Rows of each day of this phase: the days of an earlier stage had its weight."""
        stage_day = deployed.since_us // DAY_US
        earlier = round(ROWS * self.plan.canary[0]) if deployed.stage > 1 else ROWS
        now = round(ROWS * (deployed.weight or 1.0))
        return [(d, earlier if d < stage_day else now) for d in range(first, day)] + [(day, last)]

    def _look(
        self, deployed: Deployed, d: np.ndarray, blocks: np.ndarray, gated: tuple[float, int], counts: Counts, before: int
    ) -> Look:  # fmt: skip
        d = d.astype(np.float64)
        icc = upper_icc(gated, intraclass(d, blocks), size=ROWS)
        so_far = sums(d, blocks)
        found = limits(self.plan, counts, None)
        return Look(deployed.role, interval(so_far, self.plan, icc), d.size - before, 0, 0.5, 0.5, icc, bound(so_far, self.plan), (), found)


PLAN = Rollout(canary=(0.25, 0.5), alpha=ALPHA, min_labels=60, slow="20ms")


@pytest.mark.parametrize("icc", [0.0, 0.02])
def test_equal_models_are_taken_back_no_more_often_than_stated(icc: float) -> None:
    found = Simulation(PLAN, mean=0.0, icc=icc, seed=11)
    taken_back = found.ends["reject"] + found.ends["rollback"]
    assert taken_back / RUNS <= allowed(ALPHA), found.ends
    assert found.ends["promote"] > 0.9 * RUNS, "a rollout that never ends would keep its promise too"
    assert found.looks < RUNS * 14, "most rollouts end in a week"


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, canary=(), kind="blue_green")], ids=["canary", "blue_green"])
def test_what_costs_more_than_the_margin_goes_live_no_more_often_than_stated(plan: Rollout) -> None:
    found = Simulation(plan, mean=PLAN.margin * 1.02, icc=0.0, seed=12)
    assert found.wrong / RUNS <= allowed(ALPHA), found.ends


def test_what_is_clearly_worse_is_found() -> None:
    assert Simulation(PLAN, mean=0.04, icc=0.0, seed=13).ends["promote"] == 0


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_calls_at_their_limit_break_it_no_more_often_than_stated_at_any_look(share: float) -> None:
    rng = np.random.default_rng(3)
    alpha, calls = 0.05, 4000
    failed = rng.binomial(1, share, size=(RUNS, calls)).cumsum(axis=1)
    evidence = log_evidence(np.arange(1.0, calls + 1), failed, share)
    broken = (evidence >= np.log(1 / alpha)).any(axis=1).mean()
    assert broken <= allowed(alpha)
    doubled = rng.binomial(1, 2 * share, size=(200, calls)).cumsum(axis=1)
    assert (log_evidence(np.arange(1.0, calls + 1), doubled, share) >= np.log(1 / alpha)).any(axis=1).mean() > 0.95

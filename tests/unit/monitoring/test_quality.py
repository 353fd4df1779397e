"""Labelled quality: coverage, intervals, restatement and merging from days."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.monitoring_stage import START, Stage

from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.monitoring.losses import CLIP, row_losses
from tidemill.monitoring.ports import LabelRow, Observation
from tidemill.monitoring.quality import binned_auc, block_interval, quality, window


def observe(stage: Stage, from_day: int, until_day: int, at_us: int, version: int | None = 1) -> Observation:
    span = {"from_us": START + from_day * DAY_US, "until_us": START + until_day * DAY_US}
    return quality(stage.service, version, log=stage.log, labels=stage.labels, metrics=stage.metrics, at_us=at_us, **span)


def test_a_window_equals_the_rows_behind_it_and_says_how_many_it_saw(stage: Stage) -> None:
    for day in range(5):
        stage.serve(day)
    at = START + 5 * DAY_US
    seen = observe(stage, 0, 5, at)
    loss, covered, n = stage.plain_loss(0, 5, at)
    assert seen.value == pytest.approx(loss, rel=1e-12)
    assert (seen.covered, seen.n) == (covered, n)
    assert 0 < seen.coverage < 1
    assert (seen.body["pending"], seen.body["censored"]) == (n - covered, 0)
    assert seen.low is not None
    assert seen.high is not None
    assert seen.low < loss < seen.high
    assert seen.body["method"] == "cluster-robust t over days"


def test_it_restates_itself_as_labels_mature_and_then_rests(stage: Stage) -> None:
    for day in range(3):
        stage.serve(day)
    at = START + 3 * DAY_US
    early, late = observe(stage, 0, 3, at), observe(stage, 0, 3, at + 2 * DAY_US)
    assert early.coverage < late.coverage == 1.0
    assert late in stage.metrics.read("delay", objective="log_loss", version=1)
    before = late.value
    stage.labels.write([LabelRow("late", "0-0", 0.5, START, at + 3 * DAY_US)])
    assert observe(stage, 0, 3, at + 4 * DAY_US).value == before  # the days are final: nothing is read again


def test_a_label_that_never_comes_is_pending_and_then_censored(stage: Stage) -> None:
    stage.delay_us = 400 * DAY_US
    stage.serve(0, count=24)
    assert observe(stage, 0, 1, START + DAY_US).body["pending"] == 24
    matured = observe(stage, 0, 1, START + DAY_US + 26 * HOUR_US)
    assert (matured.value, matured.low, matured.covered) == (None, None, 0)
    assert (matured.body["pending"], matured.body["censored"]) == (0, 24)


def test_a_version_is_judged_by_what_it_answered(stage: Stage) -> None:
    stage.serve(0, version=1)
    stage.serve(0, version=2, role="shadow", scale=-1.0)
    at = START + 3 * DAY_US
    assert observe(stage, 0, 1, at, version=2).n == 0
    assert observe(stage, 0, 1, at, version=None).value == observe(stage, 0, 1, at).value
    assert stage.metrics.read("delay", version=0)[0].n == 48


def test_longer_windows_come_from_days_without_the_log(stage: Stage) -> None:
    for day in range(6):
        stage.serve(day)
    at = START + 10 * DAY_US
    for day in range(6):
        observe(stage, day, day + 1, at)
    merged = window(stage.service, 1, metrics=stage.metrics, from_us=START, until_us=START + 6 * DAY_US)
    assert merged is not None
    assert merged.value == pytest.approx(stage.plain_loss(0, 6, at)[0], rel=1e-12)
    assert merged.body["blocks"] == 6
    assert window(stage.service, 2, metrics=stage.metrics, from_us=START, until_us=at) is None


def test_a_single_day_is_blocked_by_hours_and_says_so(stage: Stage) -> None:
    stage.serve(0)
    seen = observe(stage, 0, 1, START + 3 * DAY_US)
    assert (seen.body["method"], seen.body["blocks"]) == ("cluster-robust t over hours", 24)


def test_auc_follows_the_scores(stage: Stage) -> None:
    for day in range(8):
        stage.serve(day, count=200)
    observe(stage, 0, 8, START + 12 * DAY_US)
    auc = next(o for o in stage.metrics.read("delay", objective="auc") if o.until_us - o.from_us == 8 * DAY_US)
    assert auc.value is not None
    assert auc.low is not None
    assert 0.6 < auc.low < auc.value < 0.85


def test_binned_auc_is_the_share_of_ordered_pairs() -> None:
    positive, negative = np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.0, 0.0])
    assert binned_auc(positive, negative) == pytest.approx((1 * 2 + 3 * 3 + 0.5) / 12)
    assert binned_auc(positive, np.zeros(3)) is None


def test_the_interval_covers_under_day_effects() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        counts = rng.integers(50, 150, size=10).astype(float)
        sums = counts * (0.5 + rng.normal(scale=0.1, size=10)) + rng.normal(scale=np.sqrt(counts) * 0.3)
        mean, low, high = block_interval(counts, sums)
        assert mean is not None
        assert low is not None
        assert high is not None
        hits += low <= 0.5 <= high
    assert hits / 400 > 0.91


def test_block_interval_says_nothing_it_cannot() -> None:
    assert block_interval(np.array([0.0]), np.array([0.0])) == (None, None, None)
    assert block_interval(np.array([4.0]), np.array([2.0])) == (0.5, None, None)


def test_row_losses() -> None:
    y, p = np.array([1.0, 0.0, 1.0]), np.array([0.8, 0.8, 0.0])
    assert row_losses("log_loss", y, p) == pytest.approx([-np.log(0.8), -np.log(0.2), -np.log(CLIP)])
    assert row_losses("brier", y, p) == pytest.approx([0.04, 0.64, 1.0])
    with pytest.raises(InvalidError, match="rmse"):
        row_losses("rmse", y, p)
    with pytest.raises(InvalidError, match="NaN"):
        row_losses("log_loss", y, np.array([0.1, np.nan, 0.2]))
    with pytest.raises(InvalidError, match="3 labels"):
        row_losses("log_loss", y, p[:2])

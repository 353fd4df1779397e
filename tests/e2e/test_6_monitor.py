"""Story 6: labels meet predictions after landing; metrics state coverage and an interval; drift comes from mergeable profiles."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa
from tests.e2e.conftest import Story

from tidemill.core.instants import DAY_US, format_instant
from tidemill.ledger import schema
from tidemill.monitoring.drift import served_subject
from tidemill.monitoring.losses import row_losses
from tidemill.monitoring.ports import LabelRow
from tidemill.monitoring.quality import quality
from tidemill.platform.root import Platform
from tidemill.retraining.summary import served

pytestmark = pytest.mark.xdist_group("story")


def test_labels_arrive_after_landing_and_join_the_predictions(story: Story, platform: Platform) -> None:
    day = story.from_us + 3 * DAY_US
    predictions = list(platform.log.read("flight-delay", from_us=day, until_us=day + DAY_US, roles=("live", "canary")))
    early = platform.labels.as_of("late", day + DAY_US).column("key").to_pylist()
    later = platform.labels.as_of("late", day + 3 * DAY_US)
    known = dict(zip(later.column("key").to_pylist(), later.column("known_us").to_pylist(), strict=True))
    labelled = [p for p in predictions if p.id in known]
    assert len(labelled) > 0.9 * len(predictions)
    assert all(known[p.id] > p.at_us for p in labelled), "a label is known only after the prediction"
    assert {p.id for p in predictions if p.id in set(early)} < {p.id for p in labelled}, "on the day itself some are still in the air"


def test_quality_states_coverage_and_interval_and_equals_a_plain_sum(story: Story, platform: Platform) -> None:
    week = (story.from_us + 7 * DAY_US, story.from_us + 14 * DAY_US)
    service = platform.definitions.service()
    kept = {"log": platform.log, "labels": platform.labels, "metrics": _Nowhere()}
    found = quality(service, None, **kept, from_us=week[0], until_us=week[1], at_us=story.until_us)  # type: ignore[arg-type]
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert 0.9 < found.coverage < 1.0, "cancelled flights never get a label"
    at, score, label = served(platform.loop, service, week[0], story.until_us)
    inside = at < week[1]
    assert found.value == pytest.approx(float(np.mean(row_losses("log_loss", label[inside], score[inside]))), rel=1e-9)


def test_metrics_restate_themselves_as_labels_mature(story: Story, platform: Platform) -> None:
    service = platform.definitions.service()
    day = story.from_us + 16 * DAY_US
    kept = {"log": platform.log, "labels": platform.labels, "metrics": _Nowhere()}
    young = quality(service, None, **kept, from_us=day, until_us=day + DAY_US, at_us=day + DAY_US)  # type: ignore[arg-type]
    mature = quality(service, None, **kept, from_us=day, until_us=day + DAY_US, at_us=day + 4 * DAY_US)  # type: ignore[arg-type]
    assert young.coverage < mature.coverage
    assert young.body["pending"] > 0
    assert mature.body["pending"] == 0


class _Nowhere:
    """Metrics that nobody keeps."""

    def write(self, observations: object, *, at_us: int) -> None:
        """Forget them."""

    def read(self, service: str, **_kwargs: object) -> list[object]:
        """Know nothing."""
        return []


def test_drift_of_a_week_is_the_merge_of_its_days(story: Story, platform: Platform) -> None:
    with platform.ledger.read() as db:
        days = db.execute(sa.select(schema.profile).where(schema.profile.c.subject == served_subject("flight-delay", 1))).mappings().all()
    assert len(days) >= 7
    some = [platform.profiler.load(row["body"]) for row in days[:7]]
    merged = some[0]
    for profile in some[1:]:
        merged = merged.merge(profile)
    assert merged.rows == sum(row["rows"] for row in days[:7])
    assert merged.column("traffic__dep_delay_mean_3h")["mean"] is not None
    drift = platform.metrics.read("flight-delay", objective="psi:max", version=1)
    assert drift, "drift of the inputs was stated"
    assert all(o.value is not None and o.value >= 0 and o.body["column"] for o in drift), format_instant(story.from_us)
    loss = platform.metrics.read("flight-delay", objective="log_loss", version=1)
    assert len(loss) > 7, "quality was stated by day"


def test_a_revised_label_counts_from_when_it_was_known(story: Story, platform: Platform) -> None:
    some = next(platform.log.read("flight-delay", from_us=story.from_us + DAY_US, roles=("live",)))
    before = platform.labels.history("late", some.id)
    known = before[-1].known_us if before else some.at_us + DAY_US
    value = 1.0 - (before[-1].value or 0.0) if before else 1.0
    platform.labels.write([LabelRow("late", some.id, value, some.at_us, known + DAY_US, "a person")])
    then = platform.labels.as_of("late", known)
    now = platform.labels.as_of("late", known + DAY_US)
    values = [dict(zip(t.column("key").to_pylist(), t.column("value").to_pylist(), strict=True)).get(some.id) for t in (then, now)]
    assert values == [before[-1].value if before else None, value]
    assert len(platform.labels.history("late", some.id)) == len(before) + 1

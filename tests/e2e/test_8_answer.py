"""Story 8: from a prediction back to the rows that trained its model, and a run that can be had again."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from tests.e2e.conftest import Story

from tidemill.core.errors import NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.platform.root import Platform
from tidemill.retraining.reproduce import reproduce
from tidemill.retraining.why import why

pytestmark = pytest.mark.xdist_group("story")


def test_why_leads_from_a_prediction_to_everything_behind_it(story: Story, platform: Platform) -> None:
    at = story.from_us + 5 * DAY_US
    asked = next(platform.log.read("flight-delay", from_us=at, roles=("live",)))
    found = why(platform.loop, asked.id)
    assert found["prediction"]["score"] == asked.score
    assert found["model"]["uri"] == f"models:/flight-delay/{asked.version}"
    assert found["decision"]["outcome"] == "promote"
    assert found["run"]["cause"]["kind"] == "new_data"
    assert set(found["snapshots"]) >= {"schedule", "departures", "landings", "weather"}
    assert found["label"][-1]["value"] in (0.0, 1.0)
    assert found["label"][-1]["known_us"] > asked.at_us
    traffic = next(f for f in found["features"] if f["name"] == "traffic__dep_delay_mean_3h")
    used = [row for row in traffic["rows"] if row["use"] == "used"]
    assert used
    assert all(row["event_us"] <= asked.at_us and row["known_us"] <= asked.at_us for row in used)
    if len(used) == dict(zip(asked.columns, asked.values, strict=True))["traffic__count_3h"]:
        mean = sum(row["values"]["dep_delay"] for row in used) / len(used)
        assert traffic["value"] == pytest.approx(mean, rel=1e-9)


def test_snapshots_behind_a_model_can_still_be_read(story: Story, platform: Platform) -> None:
    version = platform.registry.get("flight-delay", 1)
    for table, snapshot in version.meta["snapshots"].items():
        assert platform.tables.scan(table, int(snapshot)).paths


def test_an_unknown_prediction_says_where_ids_are(platform: Platform) -> None:
    with pytest.raises(NotFoundError, match="no prediction has the id 'nope'"):
        why(platform.loop, "nope")


def test_a_run_reproduces_bit_for_bit(story: Story, platform: Platform) -> None:
    with platform.ledger.read() as db:
        run = (
            db.execute(sa.select(schema.run.c.id).where(schema.run.c.service == "flight-delay").order_by(schema.run.c.started_us))
            .scalars()
            .first()
        )
        versions = db.execute(sa.select(sa.func.count()).select_from(schema.model_version)).scalar_one()
    report = reproduce(platform.loop, str(run))
    assert report["verdict"] == "bit-equal", report["first"]
    assert {row["node"] for row in report["steps"]} >= {"training_set", "tune", "fit", "evaluate"}
    with platform.ledger.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(schema.model_version)).scalar_one() == versions, (
            "a reproduction registers nothing"
        )

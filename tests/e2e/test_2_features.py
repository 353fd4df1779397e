"""Story 2: features with two clocks. The past stays what it was, and nothing peeks."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.e2e.conftest import Story

from tidemill.core.instants import DAY_US, HOUR_US, format_instant
from tidemill.ledger import schema
from tidemill.ledger.store import from_json
from tidemill.platform.root import Platform
from tidemill.training import TrainingSetCodec
from tidemill.training.ports import TrainingSource

pytestmark = pytest.mark.xdist_group("story")


def test_the_features_are_there(platform: Platform) -> None:
    columns = platform.definitions.service().columns
    assert {
        "traffic__dep_delay_mean_3h", "traffic__count_3h", "arrivals__arr_delay_mean_6h", "form__arr_delay_mean_1d", "legs__arr_delay",
        "sky__wind_speed", "sky__visib", "sky__precip", "hour",
    } <= set(columns)  # fmt: skip


def test_a_training_set_for_a_past_date_is_the_one_that_was_built_then(story: Story, platform: Platform) -> None:
    """Weeks of late and corrected landings have come since the first run; its training set is built again and is equal."""
    with platform.ledger.read() as db:
        step = schema.step_run
        query = sa.select(step.c.output, step.c.at_us).where(step.c.step == "training_set").order_by(step.c.at_us)
        output, _ = db.execute(query).first() or (None, None)
        until = from_json(db.execute(sa.select(schema.run.c.params).order_by(schema.run.c.started_us)).scalars().first())["until"]
    then = TrainingSetCodec().load(from_json(output), platform.blobs)
    corrected = _landings(platform).filter(
        pc.greater(pc.field("recorded_at"), pa.scalar(until, pa.int64()).cast(pa.timestamp("us", "UTC")))
    )
    old = corrected.filter(pc.less(pc.field("landed_at"), pa.scalar(until, pa.int64()).cast(pa.timestamp("us", "UTC"))))
    assert old.num_rows > 0, "rows about the past came later, so the test means something"
    source = platform.executor._resources[TrainingSource]  # type: ignore[attr-defined]
    now = source.frame("flight-delay", until)
    assert now.table.equals(then.table)


def _landings(platform: Platform) -> pa.Table:
    scan = platform.tables.scan("landings")
    return ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table()


def _late_landing(story: Story, platform: Platform) -> dict[str, object]:
    """A landing that was recorded more than two hours after it happened, within the served weeks."""
    rows = _landings(platform)
    delay = pc.subtract(pc.cast(rows["recorded_at"], pa.int64()), pc.cast(rows["landed_at"], pa.int64()))
    late = rows.filter(pc.and_(pc.greater(delay, 2 * HOUR_US), pc.less(delay, 5 * HOUR_US)))
    inside = pc.greater(pc.cast(late["landed_at"], pa.int64()), story.from_us)
    found: dict[str, object] = late.filter(inside).slice(0, 1).to_pylist()[0]
    return found


def test_explain_shows_what_was_used_and_what_was_not_yet_known(story: Story, platform: Platform) -> None:
    landing = _late_landing(story, platform)
    at = int(landing["landed_at"].timestamp() * 1e6) + HOUR_US  # type: ignore[attr-defined]
    view = platform.definitions.views["arrivals"]
    rows = platform.offline.explain({"dest": landing["dest"], "at": at}, view, platform.tables.scan("landings"))
    about = {(r.values["flight"], r.use) for r in rows}
    assert (landing["flight"], "not_yet_known") in about, "it had happened, but nobody could know"
    used = [r for r in rows if r.use == "used"]
    assert used
    assert all(r.event_us <= at and r.known_us <= at for r in used)
    assert all(r.event_us > at - 6 * HOUR_US - 300 * 1_000_000 for r in used)


def test_features_explain_says_it_on_the_command_line(story: Story, platform: Platform) -> None:
    from tidemill.cli.app import cli

    landing = _late_landing(story, platform)
    at = int(landing["landed_at"].timestamp() * 1e6) + HOUR_US  # type: ignore[attr-defined]
    arguments = ["features", "--project", str(story.project), "explain", "arrivals", "--key", json.dumps({"dest": landing["dest"]})]
    result = CliRunner().invoke(cli, [*arguments, "--at", format_instant(at), "--json"])
    assert result.exit_code == 0, result.output
    uses = {row["use"] for row in json.loads(result.output)}
    assert {"used", "not_yet_known"} <= uses


def test_a_feature_that_peeks_cannot_be_built(story: Story, platform: Platform) -> None:
    """A one-clock join would use rows that were not known yet; ours equals the one that leaves them out."""
    day = story.from_us + 6 * DAY_US
    service = platform.definitions.service()
    views = [platform.definitions.views["legs"]]
    served = list(platform.log.read(service.name, from_us=day, until_us=day + DAY_US, roles=("live", "canary")))
    at = pa.array([p.at_us for p in served], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    spine = pa.table({"tailnum": pa.array([p.request["tailnum"] for p in served], pa.string()), "at": at})
    ours = platform.offline.join(spine, views, {"landings": platform.tables.scan("landings")}).column("legs__arr_delay").to_pylist()
    one_clock, two_clocks = _latest(spine, _landings(platform), both=False), _latest(spine, _landings(platform), both=True)
    assert ours == two_clocks
    peeked = sum(a != b for a, b in zip(one_clock, two_clocks, strict=True))
    assert peeked > 0, "a join on event time alone would have used the future here"


def _latest(spine: pa.Table, landings: pa.Table, *, both: bool) -> list[float | None]:
    """The aircraft's latest arrival delay, row by row and slowly; `both`: known time counts as well."""
    by_tail: dict[str, list[tuple[int, int, int, str, float]]] = {}
    columns = zip(
        landings["tailnum"].to_pylist(), pc.cast(landings["landed_at"], pa.int64()).to_pylist(), pc.cast(landings["recorded_at"], pa.int64()).to_pylist(),
        landings["flight"].to_pylist(), landings["arr_delay"].to_pylist(), strict=True,
    )  # fmt: skip
    for order, (tail, event, known, flight, delay) in enumerate(columns):
        by_tail.setdefault(tail, []).append((event, known, order, flight, delay))
    out: list[float | None] = []
    for tail, at in zip(spine["tailnum"].to_pylist(), pc.cast(spine["at"], pa.int64()).to_pylist(), strict=True):
        seen = [r for r in by_tail.get(tail, ()) if r[0] <= at and (r[1] <= at or not both)]
        newest: dict[str, tuple[int, int, int, str, float]] = {}
        for r in sorted(seen, key=lambda r: (r[1], r[2])):
            newest[r[3]] = r
        best = max(newest.values(), key=lambda r: r[:3], default=None)
        out.append(best[4] if best is not None and at - best[0] <= 2 * DAY_US else None)
    return out

"""Story 9: everything that was served equals what the offline path says, and seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as altered
from tests.e2e.conftest import Story

from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.features import verify
from tidemill.features.ports import ParityReport
from tidemill.platform.root import Platform
from tidemill.retraining.parity import verify_served
from tidemill.serving.ports import Prediction
from tidemill.versioning.ports import Scan

pytestmark = pytest.mark.xdist_group("story")


def test_every_served_row_is_recomputed_without_a_difference(story: Story, platform: Platform) -> None:
    report = verify_served(platform.loop, platform.definitions.service())
    assert report.rows > 20_000
    assert report.values >= report.rows * 15
    assert report.differences == 0, report.examples


def _one_day(story: Story, platform: Platform) -> list[Prediction]:
    day = story.from_us + 10 * DAY_US
    return list(platform.log.read("flight-delay", from_us=day, until_us=day + DAY_US, roles=("live", "canary")))


def _scans(platform: Platform) -> dict[str, Scan]:
    return {name: platform.tables.scan(name) for name in ("schedule", "departures", "landings", "weather", "planes")}


def _verify(platform: Platform, served: list[Prediction], scans: dict[str, Scan] | None = None) -> ParityReport:
    return verify(platform.definitions.service(), served, platform.offline, scans or _scans(platform))


def _changed(predictions: list[Prediction], change: Callable[[str, Any], Any]) -> Iterator[Prediction]:
    for p in predictions:
        yield altered(p, values=tuple(change(c, v) for c, v in zip(p.columns, p.values, strict=True)))


def test_a_float32_cast_is_caught(story: Story, platform: Platform) -> None:
    served = list(_changed(_one_day(story, platform), lambda c, v: float(np.float32(v)) if c == "form__arr_delay_mean_1d" and v else v))
    report = _verify(platform, served)
    assert report.by_column["form__arr_delay_mean_1d"] > 100
    assert any("float32" in e.likely for e in report.examples)


def test_nulls_read_as_zero_are_caught(story: Story, platform: Platform) -> None:
    served = list(_changed(_one_day(story, platform), lambda c, v: 0.0 if v is None and c.startswith("legs__") else v))
    report = _verify(platform, served)
    assert report.by_column["legs__arr_delay"] > 0
    assert any("null" in e.likely for e in report.examples)


def test_a_timezone_shift_of_an_hour_is_caught(story: Story, platform: Platform) -> None:
    service = platform.definitions.service()
    served = _one_day(story, platform)
    early = [altered(p, at_us=p.at_us - HOUR_US) for p in served]
    shifted = {p.id: p for p in early}
    wrong = platform.offline.join(_spine(early), service.views, _scans(platform))
    rows = {row["id"]: row for row in wrong.to_pylist()}
    bug = [
        altered(p, values=tuple(rows[p.id].get(c, v) if "__" in c else v for c, v in zip(p.columns, p.values, strict=True)))
        for p in served
        if p.id in shifted
    ]
    report = _verify(platform, bug)
    assert report.differences > 100
    assert any("timezone" in e.likely or "hour" in e.likely for e in report.examples), report.examples


def _spine(predictions: list[Prediction]) -> pa.Table:
    keys = ("origin", "dest", "carrier", "tailnum")
    columns = {k: pa.array([p.request[k] for p in predictions], pa.string()) for k in keys}
    at = pa.array([p.at_us for p in predictions], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"id": pa.array([p.id for p in predictions]), "at": at, **columns})


def test_a_late_event_that_was_dropped_is_caught(story: Story, platform: Platform, tmp_path: Any) -> None:
    """The offline side stands for the truth: give it one late landing more than the served side saw."""
    served = _one_day(story, platform)
    scans = _scans(platform)
    landings = scans["landings"]
    rows = ds.dataset(list(landings.paths), schema=landings.schema, format="parquet").to_table()
    first = min(p.at_us for p in served)
    target = next(p for p in served if p.at_us > first + 12 * HOUR_US)
    late = dict.fromkeys(rows.column_names) | {
        "flight": "late-1", "dest": target.request["dest"], "carrier": target.request["carrier"], "origin": "JFK", "tailnum": "N0LATE",
        "arr_delay": 500.0, "landed_at": target.at_us - 3 * HOUR_US, "recorded_at": target.at_us - HOUR_US,
    }  # fmt: skip
    extra = pa.Table.from_pylist(
        [late], schema=pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in rows.schema])
    )
    path = tmp_path / "late.parquet"
    pq.write_table(extra.cast(rows.schema), path)
    scans["landings"] = replace(landings, paths=(*landings.paths, str(path)))
    report = _verify(platform, served, scans)
    assert report.by_column["arrivals__arr_delay_mean_6h"] > 0
    assert any("late" in e.likely for e in report.examples), report.examples

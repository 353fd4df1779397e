"""Training-serving skew by distribution: equal populations have none; a changed input is an observation, one event and one alert."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.support.feature_rows import BUSY, MINUTE, TRIPS, Lake, Told, trips
from tests.support.loop_world import make_world

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Label, Service
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.features import training_frame
from tidemill.features.embedded import DuckOfflineStore
from tidemill.monitoring.drift import profile_served
from tidemill.retraining import skew
from tidemill.retraining.ports import Loop
from tidemill.validation.embedded import SketchProfiler

ROWS = trips(*((f"t{i}", "ab"[i % 2], 5 * i, 5 * i, float(np.sin(i) * 20)) for i in range(570)))  # two days, all known at once
LATE = Label("late", TRIPS, "delay > 15", key="trip")
SERVICE = Service("delay", ["place", BUSY], LATE, TRIPS, "trip")


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    world = make_world(tmp_path / "w")
    return replace(
        world.loop,
        clock=ReplayClock(3 * DAY_US),
        definitions=Definitions(tables={"trips": TRIPS}, views={"busy": BUSY}, labels={"late": LATE}, services={"delay": SERVICE}),
        offline=DuckOfflineStore(),
        profiler=SketchProfiler(),
        tables=cast("Any", Lake(tmp_path / "lake", ROWS)),
        alerts=Told(),
    )


def served(loop: Loop, day: int, version: int = 1, **changed: Any) -> None:
    """What the offline path says of a day, with some columns changed, kept as the profile of what was served."""
    rows = training_frame(SERVICE, ROWS, loop.offline, {"trips": loop.tables.scan("trips")})
    at = rows.column("at").cast(pa.int64())
    rows = rows.filter(pc.equal(pc.divide(at, DAY_US), day)).select(list(SERVICE.columns))
    for name, change in changed.items():
        values = change(rows.column(name).to_pylist())
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    for i, field in enumerate(rows.schema):
        if pa.types.is_integer(field.type):
            rows = rows.set_column(i, field.name, rows.column(i).cast(pa.float64()))
    profile_served(
        "delay", version, rows, profiler=loop.profiler, ledger=loop.ledger, from_us=day * DAY_US, until_us=(day + 1) * DAY_US, at_us=1
    )


def events(loop: Loop) -> list[Mapping[str, Any]]:
    return [e.body for e in loop.ledger.events_after(0) if e.kind == "features.skewed"]


def test_what_is_served_as_it_is_trained_on_has_no_skew(loop: Loop) -> None:
    served(loop, 0)
    served(loop, 1, version=2)
    report = skew.compare(loop, SERVICE)
    assert (report.from_us, report.until_us, report.served, report.trained) == (0, 2 * DAY_US, 570, 570), (
        "both versions, from the first day on"
    )
    assert [c.column for c in report.columns if c.psi > 1e-9] == []
    assert {c.column for c in report.columns} == set(SERVICE.columns)
    assert events(loop) == []
    assert {o.objective for o in loop.metrics.read("delay")} == {f"skew:{c}" for c in SERVICE.columns}


def test_a_changed_input_is_said_once(loop: Loop) -> None:
    served(loop, 0, busy__delay=lambda v: [x and x * 60 for x in v], busy__delay_mean_1h=lambda v: [0.0 if x is None else x for x in v])
    report = skew.compare(loop, SERVICE)
    assert [c.column for c in report.skewed] == ["busy__delay"], "seconds for minutes; a single null read as zero is no population"
    worst = report.columns[0]
    assert worst.column == "busy__delay"
    assert (worst.mean_served or 0) == pytest.approx(60 * (worst.mean_trained or 0))
    skew.compare(loop, SERVICE)
    assert [list(e["columns"]) for e in events(loop)] == [["busy__delay"]], "once for as long as it lasts"
    assert isinstance(loop.alerts, Told)
    assert len(loop.alerts.alerts) == 1
    assert "busy__delay" in loop.alerts.alerts[0]


def test_nulls_and_another_kind_are_told_in_words(loop: Loop) -> None:
    def half(values: list[Any]) -> list[Any]:
        return [None if i % 2 else x for i, x in enumerate(values)]

    served(loop, 0, busy__delay_mean_1h=half, place=lambda v: [float(len(x)) for x in v])
    report = skew.compare(loop, SERVICE)
    words = {c.column: skew.in_words(c) for c in report.skewed}
    assert words["place"] == "served as another kind of value than it is trained on"
    assert words["busy__delay_mean_1h"].startswith("50% null when served, ")
    assert set(words) == {"place", "busy__delay_mean_1h"}


def test_rows_that_are_asked_about_and_never_trained_on(loop: Loop) -> None:
    served(loop, 0, place=lambda v: ["a" for _ in v])
    assert [c.column for c in skew.compare(loop, SERVICE).skewed] == ["place"]


def test_chance_alone_is_no_skew(loop: Loop) -> None:
    """Rows of the same day, drawn with replacement."""
    rng = np.random.default_rng(3)
    found = []
    for day in range(2):
        served(loop, day, version=day + 1, busy__delay=lambda v: list(rng.choice(np.array(v, dtype=float), len(v))))
        found.append(skew.compare(loop, SERVICE, from_us=day * DAY_US, until_us=(day + 1) * DAY_US))
    assert [r.skewed for r in found] == [(), ()]
    assert max(c.psi for r in found for c in r.columns) > 0.001


def test_every_day_is_looked_at_once(loop: Loop) -> None:
    assert skew.check(loop, SERVICE) is None, "nothing served"
    served(loop, 1)
    report = skew.check(loop, SERVICE)
    assert report is not None
    assert (report.from_us, report.until_us) == (DAY_US, 3 * DAY_US)
    assert skew.check(loop, SERVICE) is None


def test_what_cannot_be_compared_is_said(loop: Loop) -> None:
    with pytest.raises(NotFoundError, match="served nothing"):
        skew.compare(loop, SERVICE)
    served(loop, 1)
    with pytest.raises(NotFoundError, match="no profile of served rows"):
        skew.compare(loop, SERVICE, until_us=DAY_US)
    with pytest.raises(InvalidError, match="a day apart"):
        skew.compare(loop, SERVICE, from_us=DAY_US, until_us=DAY_US + 5 * MINUTE)

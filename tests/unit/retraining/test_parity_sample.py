"""A sample of what is served is verified by itself; a bug becomes an observation, one event and one alert."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.feature_rows import BUSY, MINUTE, TRIPS, WIDER, Lake, Told, trips
from tests.support.loop_world import World, make_world

from tidemill.core.definitions import FeatureView, Label, Service
from tidemill.core.errors import InvalidError
from tidemill.features import number, view_digest
from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import AT
from tidemill.ledger import schema
from tidemill.ledger.store import insert_once, to_json
from tidemill.retraining.parity import OBJECTIVE, check_sample, sampled, verify_served
from tidemill.retraining.ports import Loop, Sampling
from tidemill.serving.ports import Prediction

ROWS = trips(*((f"t{i}", "ab"[i % 2], 10 * i, 10 * i + 3, float(i)) for i in range(40)))
LATE = Label("late", TRIPS, "delay > 15", key="trip")
SERVICE = Service("delay", [BUSY], LATE, TRIPS, "trip")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path / "w")
    made.loop = replace(
        made.loop,
        offline=DuckOfflineStore(),
        tables=cast("Any", Lake(tmp_path / "lake", ROWS)),
        alerts=Told(),
        parity=Sampling(1.0, 10 * MINUTE),
    )
    made.clock.advance_to(made.clock.now_us())
    return made


def serve(loop: Loop, minutes: range, *, view: FeatureView = BUSY, version: int = 1, bug: float = 0.0, start: int = 0) -> None:
    """Answers made from the offline path itself, so they are right, plus a bug."""
    import pyarrow as pa

    at = [start + m * MINUTE for m in minutes]
    spine = pa.table({"place": ["a"] * len(at), AT: pa.array([m * MINUTE for m in minutes], pa.int64()).cast(pa.timestamp("us", "UTC"))})
    found = loop.offline.join(spine, [view], {"trips": loop.tables.scan("trips")}).select(list(view.columns)).to_pylist()
    rows = [
        Prediction(f"p{version}-{t}", "delay", "delay", version, "live", t, 0.5, view.columns,
                   tuple(v + bug if i == 0 and v is not None else v for i, v in enumerate(row.values())), {"place": "a"})
        for t, row in zip(at, found, strict=True)
    ]  # fmt: skip
    loop.log.append(rows)


def register(loop: Loop, version: int, view: FeatureView) -> None:
    meta = {"views": {view.name: view_digest(view)}, "signature": {"inputs": list(view.columns)}}
    row = {"name": "delay", "version": version, "digest": f"d{version}", "run_id": f"r{version}", "status": "registered"}
    with loop.ledger.write() as db:
        insert_once(db, schema.model_version, {**row, "metrics": "{}", "meta": to_json(meta), "at_us": 1})


def events(loop: Loop) -> list[Mapping[str, Any]]:
    return [e.body for e in loop.ledger.events_after(0) if e.kind == "features.parity"]


def early(world: World) -> Loop:
    """The loop at minute 200 of the rows' own time."""
    from tidemill.core.clock import ReplayClock

    world.clock = ReplayClock(200 * MINUTE)
    return replace(world.loop, clock=world.clock)


def test_a_bug_is_an_observation_one_event_and_one_alert(world: World) -> None:
    loop = early(world)
    serve(loop, range(100, 190))
    report = check_sample(loop, SERVICE)
    assert report is not None
    assert (report.rows, report.differences) == (90, 0)
    assert check_sample(loop, SERVICE) is None, "not time yet"
    assert events(loop) == []
    for n, bug in enumerate((1e-5, 1e-5, 0.0, 1e-5)):
        world.clock.advance_to((220 + 20 * n) * MINUTE)
        serve(loop, range(202 + 20 * n, 218 + 20 * n), bug=bug)
        check_sample(loop, SERVICE)
    courses = loop.metrics.read("delay", objective=OBJECTIVE)
    assert [o.body["differences"] for o in courses] == [0, 16, 16, 0, 16]
    assert [o.value == 0 for o in courses] == [True, False, False, True, False]
    assert [e["new"] for e in events(loop)] == [["busy__delay_mean_1h: other"]] * 2, "once for as long as it lasts"
    assert events(loop)[0]["by_column"]["busy__delay_mean_1h"] == 16
    assert isinstance(loop.alerts, Told)
    assert len(loop.alerts.alerts) == 2
    assert "16 of 48 sampled values" in loop.alerts.alerts[0]


def test_a_sample_is_the_same_whenever_it_is_taken(world: World) -> None:
    loop = early(world)
    serve(loop, range(100, 190))
    ids = [p.id for p in loop.log.read("delay")]
    wanted = sum(sampled(name, 0.3) for name in ids)
    assert 10 < wanted < 45
    assert {n for n in ids if sampled(n, 0.1)} <= {n for n in ids if sampled(n, 0.3)}
    assert verify_served(loop, SERVICE, share=0.3).rows == wanted
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(InvalidError, match="share"):
            verify_served(loop, SERVICE, share=share)
    assert check_sample(replace(loop, parity=Sampling(0.0)), SERVICE) is None


def test_each_model_is_verified_against_the_version_it_was_pinned_to(world: World) -> None:
    loop = early(world)
    number(loop.ledger, [BUSY], at_us=1)
    number(loop.ledger, [WIDER], at_us=2)
    register(loop, 1, BUSY)
    register(loop, 2, WIDER)
    serve(loop, range(100, 150), view=BUSY, version=1)
    serve(loop, range(100, 150), view=WIDER, version=2)
    changed = replace(SERVICE, features=[WIDER])
    report = verify_served(loop, changed)
    assert (report.rows, report.differences, report.excluded) == (100, 0, {})
    assert report.values == 50 * 3 + 50 * 2


def test_a_version_that_nobody_knows_any_more_is_said(world: World) -> None:
    loop = early(world)
    register(loop, 1, BUSY)
    serve(loop, range(100, 110))
    report = verify_served(loop, replace(SERVICE, features=[WIDER]))
    assert "busy" in report.excluded
    assert report.values == 0

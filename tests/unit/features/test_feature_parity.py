"""Seeded bugs: what goes wrong between training and serving in practice, each caught and named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as altered

from tidemill.core.aggregates import count, latest, max_, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Label, Service, Table, on_demand
from tidemill.core.instants import DAY_US, HOUR_US, parse_duration
from tidemill.features import apply_on_demand, training_frame, verify
from tidemill.features.embedded import DuckOfflineStore, SqliteOnlineStore, TileProcessor
from tidemill.features.ports import ParityReport
from tidemill.serving.ports import Prediction
from tidemill.versioning.ports import Scan

UTC_US = pa.timestamp("us", "UTC")
MINUTE = parse_duration("1m")
TRIPS = Table("trips", "files:trips", "left_at", "recorded_at", key="trip")
PLANNED = Table("planned", "files:planned", "due_at", "filed_at", key="trip")
PLACE = Entity("place")


@on_demand
def hour(due_at: Any) -> Any:
    return due_at.astype("M8[h]").astype(np.int64) % 24


BUSY = FeatureView(
    "busy", PLACE, TRIPS, [mean("delay", over="3h", hop="5m"), count(over="3h", hop="5m"), max_("delay", over="1h", hop="5m")]
)
LAST = FeatureView("last", PLACE, TRIPS, [latest("delay", "crew", ttl="1h")])
SERVICE = Service("late", ["place", "load", BUSY, LAST, hour], Label("l", TRIPS, "delay > 1", "trip"), PLANNED, "trip", lead="1h")
Change = Callable[[str, Any], Any]


@dataclass
class World:
    scans: dict[str, Scan]
    planned: pa.Table
    trips: pa.Table
    served: list[Prediction] = field(default_factory=list)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, draw = tmp_path_factory.mktemp("world"), random.Random(5)
    left = sorted(draw.randrange(10 * DAY_US, 12 * DAY_US) for _ in range(1500))
    late = [HOUR_US // 2 if draw.random() < 0.08 else draw.randrange(0, 4 * MINUTE) for _ in left]
    trips = {
        "trip": [f"t{i}" for i in range(len(left))],
        "place": [draw.choice("ab") for _ in left],
        "delay": [None if draw.random() < 0.05 else draw.uniform(-20, 90) for _ in left],
        "crew": [draw.choice(["red", "blue", "green"]) for _ in left],
    }
    clocks = {"left_at": _times(left), "recorded_at": _times([a + b for a, b in zip(left, late, strict=True)])}
    due = sorted(draw.randrange(10 * DAY_US + 6 * HOUR_US, 12 * DAY_US) for _ in range(300))
    planned = {
        "trip": [f"p{i}" for i in range(len(due))],
        "place": [draw.choice(["a", "b", "nowhere"]) for _ in due],
        "load": [draw.randrange(99) for _ in due],
    }
    made = World({}, pa.table(planned | {"due_at": _times(due), "filed_at": _times([0] * len(due))}), pa.table(trips | clocks))
    for name, rows in (("planned", made.planned), ("trips", made.trips)):
        pq.write_table(rows, folder / f"{name}.parquet")
        made.scans[name] = Scan(name, 1, rows.schema, (str(folder / f"{name}.parquet"),))
    made.served = serve(made, folder / "online.db", made.trips)
    return made


def _times(us: list[int]) -> pa.Array:
    return pa.array(us, pa.int64()).cast(UTC_US)


def serve(world: World, path: Path, trips: pa.Table) -> list[Prediction]:
    """Answer each planned trip an hour ahead from online state."""
    definitions = Definitions(views={v.name: v for v in SERVICE.views})
    processor = TileProcessor(SqliteOnlineStore(path), definitions)
    processor.push("trips", trips)
    served = []
    for row, due in zip(world.planned.to_pylist(), world.planned["due_at"].cast(pa.int64()).to_pylist(), strict=True):
        request = {"place": row["place"], "load": row["load"], "due_at": row["due_at"].isoformat()}
        values = request | processor.read(SERVICE.views, [request], due - HOUR_US)[0]
        values["hour"] = float(apply_on_demand(SERVICE, {"due_at": np.array([due], "M8[us]")})["hour"][0])
        inputs = tuple(values[c] for c in SERVICE.columns)
        served.append(Prediction(row["trip"], "late", "late", 1, "live", due - HOUR_US, 0.5, SERVICE.columns, inputs, request))
    return served


def changed(world: World, change: Change) -> ParityReport:
    served = [altered(p, values=tuple(change(c, v) for c, v in zip(p.columns, p.values, strict=True))) for p in world.served]
    return verify(SERVICE, served, DuckOfflineStore(), world.scans)


def test_what_is_served_is_what_offline_says(world: World) -> None:
    seen: list[int] = []
    report = verify(SERVICE, world.served, DuckOfflineStore(), world.scans, progress=seen.append)
    assert (report.rows, report.values, report.differences, report.examples) == (300, 300 * len(SERVICE.columns), 0, ())
    assert seen == [300]
    assert any(p.values[SERVICE.columns.index("last__crew")] for p in world.served)


def test_the_training_frame_has_the_served_values(world: World) -> None:
    frame = training_frame(SERVICE, world.planned, DuckOfflineStore(), world.scans)
    assert frame.column_names == ["id", "at", "trip", "due_at", "filed_at", *SERVICE.columns]
    assert frame["id"].to_pylist() == [p.id for p in world.served]
    assert frame["at"].cast(pa.int64()).to_pylist() == [p.at_us for p in world.served]
    means = SERVICE.columns.index("busy__delay_mean_3h")
    served = np.array([p.values[means] for p in world.served], dtype=float)
    np.testing.assert_allclose(frame["busy__delay_mean_3h"].to_numpy(), served, rtol=1e-12, equal_nan=True)


def test_a_float32_cast_is_caught(world: World) -> None:
    report = changed(world, lambda c, v: float(np.float32(v)) if c == "busy__delay_mean_3h" and v is not None else v)
    assert report.differences == report.by_column["busy__delay_mean_3h"] > 190
    assert {e.likely for e in report.examples} == {"float32"}


def test_nulls_read_as_zero_are_caught(world: World) -> None:
    report = changed(world, lambda c, v: 0.0 if c == "last__delay" and v is None else v)
    assert report.differences == report.by_column["last__delay"] > 50
    assert {e.likely for e in report.examples} == {"null read as 0"}


def test_lost_values_are_caught(world: World) -> None:
    report = changed(world, lambda c, v: None if c == "last__crew" else v)
    assert {e.likely for e in report.examples} == {"value missing (null served)"}
    assert len(report.examples) <= 12


def test_a_time_zone_shift_is_caught(world: World, tmp_path: Path) -> None:
    moved = world.trips.set_column(4, "left_at", _times([u - HOUR_US for u in world.trips["left_at"].cast(pa.int64()).to_pylist()]))
    moved = moved.set_column(5, "recorded_at", _times([u - HOUR_US for u in moved["recorded_at"].cast(pa.int64()).to_pylist()]))
    report = verify(SERVICE, serve(world, tmp_path / "o.db", moved), DuckOfflineStore(), world.scans)
    assert report.by_column["busy__delay_mean_3h"] > 100
    assert {e.likely for e in report.examples if e.column == "busy__delay_mean_3h"} == {"timezone: the value 1 h later"}
    shifted = changed(world, lambda c, v: (v - 1) % 24 if c == "hour" else v)
    assert {(e.column, e.likely) for e in shifted.examples} == {("hour", "timezone: the value 1 h earlier")}


def test_a_dropped_late_row_is_caught(world: World, tmp_path: Path) -> None:
    trips = world.trips
    lag = np.array(trips["recorded_at"].cast(pa.int64())) - np.array(trips["left_at"].cast(pa.int64()))
    report = verify(SERVICE, serve(world, tmp_path / "o.db", trips.filter(pa.array(lag < 10 * MINUTE))), DuckOfflineStore(), world.scans)
    assert report.differences > 100
    causes = [e.likely for e in report.examples if e.column.startswith("busy__delay_mean")]
    assert causes
    assert all(c.startswith("late row dropped") for c in causes)


def test_columns_in_another_order_are_caught(world: World) -> None:
    """Somebody built the model's inputs from a set: two columns have changed places."""
    one, other = "busy__delay_mean_3h", "last__delay"

    def swapped(p: Prediction) -> Prediction:
        values = dict(zip(p.columns, p.values, strict=True))
        values[one], values[other] = values[other], values[one]
        return altered(p, values=tuple(values[c] for c in p.columns))

    report = verify(SERVICE, [swapped(p) for p in world.served], DuckOfflineStore(), world.scans)
    assert report.by_column[one] > 100
    causes = {(e.column, e.likely) for e in report.examples if e.served is not None and e.expected is not None}
    assert causes == {(one, f"order: the value of {other}"), (other, f"order: the value of {one}")}


def test_rows_taken_in_the_order_of_arrival_are_caught(world: World, tmp_path: Path) -> None:
    """The latest value was the last one to arrive, not the last one to happen."""
    arrived = world.trips.set_column(4, "left_at", world.trips["recorded_at"])
    report = verify(SERVICE, serve(world, tmp_path / "o.db", arrived), DuckOfflineStore(), world.scans)
    causes = [e.likely for e in report.examples if e.column.startswith("last__")]
    assert causes
    assert set(causes) == {"order: the row that became known last, not the one that happened last"}


def test_another_type_and_another_word_are_caught(world: World) -> None:
    report = changed(world, lambda c, v: str(v) if c == "load" else v)
    assert {e.likely for e in report.examples} == {"type: str for int"}
    report = changed(world, lambda c, v: "purple" if c == "last__crew" and v == "red" else v)
    assert {e.likely for e in report.examples} == {"other"}


def test_rows_that_brought_their_inputs_are_left_out(world: World) -> None:
    full = [altered(p, request={}) for p in world.served[:5]]
    report = verify(SERVICE, [*full, *world.served[5:7]], DuckOfflineStore(), world.scans)
    assert (report.rows, report.differences) == (2, 0)

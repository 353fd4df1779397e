"""A small table of trips, published as Parquet files, and views of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count as count_up
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.instants import parse_duration
from tidemill.features.pieces import Published
from tidemill.versioning.ports import Scan

MINUTE = parse_duration("1m")
DAY = 1440
PLACE = Entity("place")
TRIPS = Table("trips", "files:trips", "left_at", "recorded_at", key="trip")
BUSY = FeatureView("busy", PLACE, TRIPS, [mean("delay", over="1h", hop="5m"), count(over="1h", hop="5m"), latest("delay", ttl="1h")])
WIDER = FeatureView("busy", PLACE, TRIPS, [mean("delay", over="2h", hop="5m", name="delay_mean_1h"), count(over="1h", hop="5m")])
CALM = FeatureView("calm", PLACE, TRIPS, [count(over="1d", hop="1h")])

_NUMBER = count_up()
"""Files are never called like one that was there before."""
Trip = tuple[str, str, int, int, float | None]
"""Trip, place, left at, recorded at (minutes), delay."""


def define(*views: FeatureView) -> Definitions:
    return Definitions(tables={"trips": TRIPS}, views={v.name: v for v in views})


def trips(*rows: Trip) -> pa.Table:
    names, places, left, recorded, delay = ([*column] for column in zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    clock = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "trip": pa.array(names, pa.string()),
            "place": pa.array(places, pa.string()),
            "left_at": pa.array([t * MINUTE for t in left], pa.int64()).cast(clock),
            "recorded_at": pa.array([t * MINUTE for t in recorded], pa.int64()).cast(clock),
            "delay": pa.array(delay, pa.float64()),
        }
    )


def publish(folder: Path, *batches: pa.Table) -> dict[str, Published]:
    """Add a file per batch to those in `folder`, and say what is published."""
    folder.mkdir(exist_ok=True)
    for batch in batches:
        pq.write_table(batch, folder / f"{next(_NUMBER):06d}.parquet")
    paths = sorted(map(str, folder.iterdir()))
    return {"trips": Published(TRIPS, Scan("trips", len(paths), trips().schema, tuple(paths)), len(paths))}


def rewrite(folder: Path, published: dict[str, Published]) -> dict[str, Published]:
    """What maintenance does: the same rows in one new file."""
    merged = pa.concat_tables([pq.read_table(path) for path in published["trips"].scan.paths])
    for path in published["trips"].scan.paths:
        Path(path).unlink()
    target = folder / f"{next(_NUMBER):06d}.parquet"
    pq.write_table(merged, target)
    return {"trips": Published(TRIPS, Scan("trips", 99, merged.schema, (str(target),)), published["trips"].batches)}


class Lake:
    """Of a table store, what joins ask for: where the published trips are."""

    def __init__(self, folder: Path, rows: pa.Table) -> None:
        self._published = publish(folder, rows)

    def scan(self, table: str, _at: int | str | None = None) -> Scan:
        return self._published[table].scan


class Told:
    """An alert sink that remembers the texts."""

    def __init__(self) -> None:
        self.alerts: list[str] = []

    def send(self, _subject: str, body: Mapping[str, Any]) -> None:
        self.alerts.append(str(body["text"]))

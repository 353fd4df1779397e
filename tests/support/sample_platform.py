"""A platform for pages and routes: the sample year behind real embedded ports, without a project folder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tests.support.sample_definitions import DEFINITIONS, delay
from tests.support.sample_ledger import fill
from tests.support.sample_story import DAY, SERVICE, us
from tidemill.core import ids
from tidemill.core.clock import Clock, ReplayClock
from tidemill.core.definitions import Definitions
from tidemill.core.instants import from_us
from tidemill.features.embedded import DuckOfflineStore
from tidemill.ingestion.embedded import LogStream
from tidemill.ingestion.quarantine import keep
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, to_json
from tidemill.monitoring.embedded import SqliteLabelStore
from tidemill.monitoring.ports import LabelRow
from tidemill.registry.embedded import LedgerRegistry
from tidemill.serving.embedded import OnnxRuntime, SqlitePredictionLog
from tidemill.serving.ports import Prediction
from tidemill.tracking.embedded import LedgerTracker
from tidemill.validation import infer
from tidemill.validation.embedded import SketchProfiler, YamlSchemaStore
from tidemill.versioning.embedded import FileBlobStore, IcebergTableStore

NOW = us("2014-01-01T00:40:00Z")
_NUMBERS: dict[str, dict[str, pa.DataType]] = {
    "schedule": {"distance": pa.float64()}, "departures": {"dep_delay": pa.float64()}, "landings": {},
    "weather": dict.fromkeys(("wind_speed", "visib", "precip", "temp"), pa.float64()),
}  # fmt: skip


@dataclass(slots=True)
class SamplePlatform:
    """The attributes that `api.needs.Needs` names, and nothing else."""

    clock: Clock
    definitions: Definitions
    ledger: Ledger
    tables: IcebergTableStore
    profiler: SketchProfiler
    schemas: YamlSchemaStore
    offline: DuckOfflineStore
    registry: LedgerRegistry
    tracker: LedgerTracker
    log: SqlitePredictionLog
    labels: SqliteLabelStore
    stream: LogStream
    blobs: FileBlobStore
    runtime: OnnxRuntime


def empty(home: Path, definitions: Definitions = DEFINITIONS) -> SamplePlatform:
    """All ports opened in `home`, nothing in them."""
    clock, ledger = ReplayClock(NOW), Ledger(f"sqlite:///{home / 'ledger.db'}")
    blobs = FileBlobStore(home / "blobs")
    return SamplePlatform(
        clock, definitions, ledger, IcebergTableStore(home / "lake", f"sqlite:///{home / 'catalog.db'}", clock), SketchProfiler(),
        YamlSchemaStore(home / "schemas"), DuckOfflineStore(), LedgerRegistry(ledger, blobs), LedgerTracker(ledger),
        SqlitePredictionLog(home / "predictions.db"), SqliteLabelStore(home / "labels.db"), LogStream(home / "stream"),
        blobs, OnnxRuntime(),
    )  # fmt: skip


def sample(home: Path) -> SamplePlatform:
    """The whole sample year, with rows of its last days."""
    platform, rng = empty(home), random.Random(11)
    fill(platform.ledger)
    landings = _landings(rng)
    _publish(platform, landings)
    _profiles(platform, landings)
    _predictions(platform, rng)
    return platform


def _landings(rng: random.Random, rows: int = 2700) -> pa.Table:
    at = [NOW - 3 * DAY + i * 3 * DAY // rows for i in range(rows)]
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table({
        "flight": [f"{rng.choice(['UA', 'B6', 'EV', 'DL'])}{i:04d}" for i in range(rows)],
        "carrier": [rng.choice(["UA", "B6", "EV", "DL", "AA"]) for _ in at], "dest": [rng.choice(["ATL", "ORD", "LAX", "BOS", "MCO"]) for _ in at],
        "tailnum": [f"N{rng.randrange(100, 140)}UA" for _ in at], "landed_at": pa.array(at, pa.int64()).cast(stamp),
        "recorded_at": pa.array([a + rng.randrange(60, 900) * 1_000_000 for a in at], pa.int64()).cast(stamp),
        "arr_delay": [round(rng.gauss(-4, 12) + (rng.expovariate(1 / 55) if rng.random() < 0.27 else 0)) * 1.0 if rng.random() > 0.02 else None for _ in at],
        "air_time": [max(20.0, rng.gauss(150, 70)) for _ in at],
    })  # fmt: skip


def _publish(platform: SamplePlatform, rows: pa.Table) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    for table in platform.definitions.tables.values():
        typed = {
            **dict.fromkeys(("flight", "origin", "dest", "carrier", "tailnum"), pa.string()),
            **dict.fromkeys((table.event_time, table.known_time), stamp),
        }
        platform.tables.create(table.name, rows.schema if table.name == "landings" else pa.schema({**typed, **_NUMBERS[table.name]}))
    platform.tables.append("landings", rows.slice(0, 1800), batch="one", branch="audit-one")
    platform.tables.publish("landings", "audit-one")
    with platform.ledger.read() as db:
        query = sa.select(schema.batch.c.id).where(schema.batch.c.status == "rejected", schema.batch.c.table_name == "landings")
        batch = str(db.execute(query).scalar_one())
    columns = keep(
        "landings", batch, rows.slice(1800).rename_columns([c.replace("arr_", "arrival_") for c in rows.column_names]), platform.tables
    )
    decision = {
        "id": ids.derive("decision", "audit", batch), "kind": "audit", "service": "", "subject": f"landings/{batch}", "outcome": "reject", "cause": "{}",
        "evidence": to_json({"anomalies": [], "columns": columns, "rows": 900}), "actor": "tidemill", "reverses": None, "at_us": us("2013-12-30T23:54:00Z"),
    }  # fmt: skip
    with platform.ledger.write(durable=False) as db:
        db.execute(schema.decision.insert(), [decision])


def _profiles(platform: SamplePlatform, rows: pa.Table) -> None:
    body = platform.profiler.profile(rows).to_bytes()
    subjects = [f"table:{name}" for name in ("landings", "departures")] + [f"baseline:{SERVICE}/{n}" for n in (5, 8, 10)]
    with platform.ledger.write(durable=False) as db:
        values = [
            {"subject": s, "from_us": NOW - 3 * DAY, "until_us": NOW, "rows": rows.num_rows, "body": body, "at_us": NOW} for s in subjects
        ]
        db.execute(schema.profile.insert(), values)
    platform.schemas.save(infer("landings", rows, unique=("flight",)))


def _predictions(platform: SamplePlatform, rng: random.Random, rows: int = 900) -> None:
    answers, labels = [], []
    for i in range(rows):
        at_us = NOW - DAY + i * DAY // rows
        version, role = (10, "canary") if rng.random() < 0.1 else (8, "live")
        request = {"flight": f"{rng.choice(['UA', 'B6'])}{i}", "carrier": rng.choice(["UA", "B6"]), "origin": rng.choice(["EWR", "JFK"]), "dest": rng.choice(["ATL", "ORD"]),
                   "tailnum": f"N{rng.randrange(100, 140)}UA", "scheduled_at": from_us(at_us + 3_600_000_000).isoformat(), "distance": 746.0}  # fmt: skip
        score = min(0.97, max(0.02, rng.betavariate(1.6, 4.5)))
        values = tuple(request.get(c, round(rng.gauss(8, 6), 3)) for c in delay.columns)
        took = int(rng.lognormvariate(6.6, 0.35))
        answers.append(Prediction(f"flight-{i:04d}", SERVICE, SERVICE, version, role, at_us, score, delay.columns, values, request, took))  # type: ignore[arg-type]
        if rng.random() < 0.8:
            labels.append(LabelRow("late", f"flight-{i:04d}", float(rng.random() < score), at_us + 5_400_000_000, at_us + 5_500_000_000))
    platform.log.append(answers)
    platform.labels.write(labels)


def request_row(at_us: int) -> Mapping[str, Any]:
    """A row as a client pushes it to `landings`."""
    return {
        "flight": "UA1",
        "landed_at": from_us(at_us).isoformat(),
        "recorded_at": (from_us(at_us) + timedelta(minutes=2)).isoformat(),
        "arr_delay": 3.0,
    }

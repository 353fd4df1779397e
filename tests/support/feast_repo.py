"""A Feast repository about couriers, its data, and the Python that has Feast."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
UTC_US = pa.timestamp("us", "UTC")
HOUR = 3_600_000_000

STORE = """\
project: couriers
provider: local
registry: data/registry.db
online_store:
  type: sqlite
  path: data/online.db
offline_store:
  type: duckdb
entity_key_serialization_version: 3
"""

DEFINITIONS = '''\
"""Couriers, where they ride and how it rains there."""

import math
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int64, String, UnixTimestamp

courier = Entity(name="courier", join_keys=["courier_id"], value_type=ValueType.INT64, description="who rides", owner="ops", tags={"tier": "1"})
town = Entity(name="town", value_type=ValueType.STRING)

rides_file = FileSource(name="rides_file", path="data/rides.parquet", timestamp_field="happened", created_timestamp_column="written", owner="data")
rides_live = PushSource(name="rides-live", batch_source=rides_file)
rain_file = FileSource(path="data/rain.parquet", timestamp_field="seen")

shape = FeatureView(
    name="shape",
    entities=[courier],
    ttl=timedelta(hours=20),
    source=rides_live,
    schema=[
        Field(name="courier_id", dtype=Int64),
        Field(name="trips", dtype=Int64),
        Field(name="rating", dtype=Float64),
        Field(name="pace", dtype=Float32),
        Field(name="home", dtype=String),
        Field(name="ok", dtype=Bool),
        Field(name="since", dtype=UnixTimestamp),
    ],
    tags={"team": "riders"},
    description="how a courier is doing",
    owner="ops",
)
sky = FeatureView(name="sky", entities=[town], ttl=timedelta(0), source=rain_file, schema=[Field(name="rain", dtype=Float64)])
streets = FeatureView(
    name="streets", entities=[courier, town], ttl=timedelta(days=3), source=rides_file, schema=[Field(name="trips", dtype=Int64)]
)

asked = RequestSource(name="asked", schema=[Field(name="km", dtype=Float64), Field(name="word", dtype=String)])


@on_demand_feature_view(sources=[shape[["rating", "trips"]], asked], schema=[Field(name="per_km", dtype=Float64), Field(name="busy", dtype=Bool)])
def effort(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["per_km"] = inputs["rating"] / inputs["km"]
    out["busy"] = inputs["shape__trips"] > 20
    return out


@on_demand_feature_view(sources=[sky, asked], schema=[Field(name="wet", dtype=Float64), Field(name="said", dtype=String)], mode="python")
def weather(inputs):
    pairs = zip(inputs["rain"], inputs["km"], inputs["word"])
    return {
        "wet": [None if rain is None else rain * km for rain, km, _ in pairs],
        "said": [word.upper() for word in inputs["word"]],
    }


@on_demand_feature_view(sources=[shape[["trips"]]], schema=[Field(name="half", dtype=Int64)], mode="python", singleton=True)
def one(inputs):
    return {"half": -1 if inputs["trips"] is None else inputs["trips"] // 2}


dispatch = FeatureService(
    name="dispatch", features=[shape[["trips", "rating"]], sky, effort, weather], description="who gets the ride", owner="me", tags={"a": "b"}
)
'''

NOT_KEPT = """\
from feast import BatchFeatureView, BigQuerySource, KafkaSource
from feast.data_format import JsonFormat

from definitions import *
from helpers import doubled

warehouse = BigQuerySource(name="warehouse", table="a.b.c", timestamp_field="t")
far = FeatureView(name="far", entities=[courier], source=warehouse, schema=[Field(name="x", dtype=Int64)])
topic = KafkaSource(
    name="topic", kafka_bootstrap_servers="x", topic="t", message_format=JsonFormat("a int"), timestamp_field="happened", batch_source=rides_file
)
live = FeatureView(name="live", entities=[courier], source=topic, schema=[Field(name="trips", dtype=Int64)])
named_file = FileSource(name="named_file", path="data/rides.parquet", timestamp_field="happened", field_mapping={"trips": "journeys"})
named = FeatureView(name="named", entities=[courier], source=named_file, schema=[Field(name="journeys", dtype=Int64)])
narrow = FeatureView(name="narrow", entities=[courier], source=rides_file, schema=[Field(name="rating", dtype=Float32)])


@on_demand_feature_view(sources=[sky], schema=[Field(name="twice", dtype=Float64)])
def twice(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"twice": doubled(inputs["rain"])})


all_of_it = FeatureService(name="all_of_it", features=[far, shape.with_name("form")])
"""


def write_data(folder: Path, now_us: int) -> None:
    """Rides of the last 40 hours and rain, some of it corrected, none in the future."""
    rng, n = np.random.default_rng(7), 400
    happened = now_us - rng.integers(1, 40 * 3600, n) * 1_000_000
    written = np.minimum(happened + rng.integers(0, 7200, n) * 1_000_000, now_us)
    rating = rng.uniform(1, 5, n)
    rides = pa.table(
        {
            "courier_id": pa.array(rng.integers(1, 12, n)),
            "town": pa.array(rng.choice(["oslo", "bergen"], n)),
            "happened": pa.array(happened).cast(UTC_US),
            "written": pa.array(written).cast(UTC_US),
            "trips": pa.array(rng.integers(0, 50, n), mask=rng.random(n) < 0.2),
            "rating": pa.array(rating, mask=rng.random(n) < 0.1),
            "pace": pa.array(rating, pa.float32()),
            "home": pa.array(rng.choice(["oslo", "bergen"], n), mask=rng.random(n) < 0.1),
            "ok": pa.array(rng.random(n) < 0.5),
            "since": pa.array(happened - 60_000_000).cast(UTC_US),
        }
    )
    corrected = np.flatnonzero(written < now_us - 2 * HOUR)
    corrected = corrected[np.argsort(-happened[corrected])][:60]
    again = rides.take(pa.array(corrected)).set_column(4, "trips", pa.array(rng.integers(100, 150, 60)))
    rides = pa.concat_tables([rides, again.set_column(3, "written", pa.array(written[corrected] + HOUR).cast(UTC_US))])
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(rides, folder / "data" / "rides.parquet")
    rain = {"town": pa.array(rng.choice(["oslo", "bergen"], 50)), "seen": rides["happened"].slice(0, 50), "rain": rng.uniform(0, 9, 50)}
    pq.write_table(pa.table(rain), folder / "data" / "rain.parquet")


def write_repository(folder: Path, now_us: int, **more: str) -> Path:
    """The repository in a new folder; `more` are further files."""
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(STORE)
    for name, text in {"definitions": DEFINITIONS, **more}.items():
        (folder / f"{name}.py").write_text(text)
    write_data(folder, now_us)
    return folder


def feast_python() -> str:
    """The Python with Feast: of TIDEMILL_FEAST_PYTHON or .venv-feast; without it the test is skipped, or fails if TIDEMILL_LIVE names feast."""
    found = os.environ.get("TIDEMILL_FEAST_PYTHON") or str(ROOT / ".venv-feast" / "bin" / "python")
    if not Path(found).is_file():
        told = "there is no Python with Feast: python -m venv .venv-feast && .venv-feast/bin/pip install 'feast[duckdb]'"
        (pytest.fail if "feast" in os.environ.get("TIDEMILL_LIVE", "").split(",") else pytest.skip)(told)
    return found


def run_feast(folder: Path, script: str, given: Any = None, **environment: str) -> Any:
    """Run a script with Feast in `folder`: it has `store`, `given` and the imports it mostly needs; what it puts into `out` comes back."""
    head = (
        "import json, sys, warnings\nwarnings.simplefilter('ignore')\nfrom datetime import datetime, timezone\nfrom pathlib import Path\n"
        "import pandas as pd\nfrom feast import FeatureStore\nfrom feast.repo_operations import apply_total\nsys.path.insert(0, '.')\n"
        "at = lambda us: datetime.fromtimestamp(us / 1e6, timezone.utc)\n"
        "given, out, printed = json.load(sys.stdin), {}, sys.stdout\nsys.stdout = sys.stderr\nstore = FeatureStore('.')\n"
    )
    done = subprocess.run(
        [feast_python(), "-c", head + script + "\njson.dump(out, printed, default=str)"],
        cwd=folder, input=json.dumps(given).encode(), capture_output=True, check=False, timeout=900,
        env={**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads(done.stdout)


APPLY = """
apply_total(store.config, Path('.').resolve(), False)
store = FeatureStore('.')
store.materialize(at(given['from_us']), at(given['now_us']))
"""


def same(a: Any, b: Any) -> bool:
    """Equal, floats to 1e-9 relative."""
    if isinstance(a, float) and isinstance(b, int | float) and not isinstance(b, bool):
        return abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    return bool(a == b)

"""Feast on the same files: training sets, materialization, online reads, and a repository for `feast serve`.

Views keep their names; online views are filled from `NAME_last`, the newest row of each key, so that filling takes seconds. A ttl of
30 days is given, which the online stores ignore.
"""

import logging
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from feast.types import Float64

from peers.worker import serve

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
STORES: dict[str, feast.FeatureStore] = {}
WIDTHS = {"a": 4, "b": 3, "c": 3}
FEATURES = [f"{view}{i}" for view, width in WIDTHS.items() for i in range(width)]


def repository(home: Path, *, offline: str = "duckdb", online: dict[str, Any] | None = None) -> feast.FeatureStore:
    """A fresh repository in `home`."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    config = {
        "project": home.name.replace("-", "_"),
        "provider": "local",
        "registry": str(home / "registry.db"),
        "offline_store": {"type": offline},
        "online_store": online or {"type": "sqlite", "path": str(home / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (home / "feature_store.yaml").write_text(yaml.safe_dump(config))
    return feast.FeatureStore(str(home))


def define(store: feast.FeatureStore, folder: Path, widths: dict[str, int], prefix: str = "") -> list[feast.FeatureView]:
    """Apply one view for each table, and the service `s` of them all."""
    key = feast.Entity(name="key", join_keys=["key"], value_type=feast.ValueType.INT64)
    views = []
    for name, width in widths.items():
        path = str(folder / name / "part-0000.parquet")
        source = feast.FileSource(path=path, timestamp_field="ts", created_timestamp_column="created")
        fields = [feast.Field(name=f"{prefix or name[0]}{i}", dtype=Float64) for i in range(width)]
        views.append(feast.FeatureView(name=name, entities=[key], ttl=timedelta(days=30), schema=fields, source=source, online=True))
    store.apply([key, *views, feast.FeatureService(name="s", features=views)])
    return views


def training_set(data: str, offline: str, into: str) -> dict[str, float]:
    """Time `get_historical_features`; write the answer in the spine's order, nulls for the rows that were lost."""
    folder = Path(data)
    name = f"offline-{offline}"
    if name not in STORES:
        STORES[name] = repository(folder / "feast" / name, offline=offline)
        define(STORES[name], folder, WIDTHS)
    spine = pd.read_parquet(folder / "spine.parquet").rename(columns={"at": "event_timestamp"})
    started = time.perf_counter()
    got = STORES[name].get_historical_features(spine, [f"{f[0]}:{f}" for f in FEATURES]).to_df()
    spent = time.perf_counter() - started
    got = got.drop_duplicates("row").set_index("row")
    lost = len(spine) - len(got)
    got.reindex(range(len(spine))).reset_index()[["row", *FEATURES]].to_parquet(into)
    return {"s": spent, "lost": lost}


def fill(data: str, name: str, online: dict[str, Any]) -> None:
    """Fill an online store with the newest rows of the three views."""
    folder = Path(data)
    STORES[name] = repository(folder / "feast" / name, online=online)
    define(STORES[name], folder, {f"{view}_last": width for view, width in WIDTHS.items()})
    STORES[name].materialize(SINCE, SINCE + timedelta(days=95))


def read(name: str, size: int, count: int, keys: int, seed: int, data: str) -> list[float]:
    """Seconds of each of `count` online reads of `size` keys; the first is checked against the newest rows."""
    store = STORES[name]
    service, random = store.get_feature_service("s"), np.random.default_rng(seed)
    batches = [[{"key": int(k)} for k in random.integers(0, keys, size)] for _ in range(count)]
    check(store.get_online_features(service, batches[0]).to_dict(), [row["key"] for row in batches[0]], Path(data))
    for batch in batches[:20]:
        store.get_online_features(service, batch).to_dict()
    spent = []
    for batch in batches:
        started = time.perf_counter()
        store.get_online_features(service, batch).to_dict()
        spent.append(time.perf_counter() - started)
    return spent


def check(got: dict[str, list[Any]], keys: list[int], folder: Path) -> None:
    """Raise unless the answer is the newest row of each key."""
    for view in WIDTHS:
        rows = pq.read_table(folder / f"{view}_last", columns=["key", f"{view}0"])
        rows = rows.filter(pc.is_in(rows["key"], pa.array(keys)))
        newest = dict(zip(rows["key"].to_pylist(), rows[f"{view}0"].to_pylist(), strict=True))
        if got[f"{view}0"] != [newest.get(k) for k in keys]:
            raise ValueError(f"view {view}: not the newest rows")


def materialize(data: str, name: str, online: dict[str, Any]) -> float:
    """Seconds to materialize the table `wide` into an empty online store."""
    folder = Path(data)
    store = STORES[name] = repository(folder / "feast" / name, online=online)
    define(store, folder, {"wide": 10}, prefix="m")
    started = time.perf_counter()
    store.materialize(SINCE, SINCE + timedelta(days=95))
    spent = time.perf_counter() - started
    rows = pq.read_table(folder / "wide", columns=["key", "ts", "m0"]).slice(0, 1000)
    keys = list(dict.fromkeys(rows["key"].to_pylist()))
    got = store.get_online_features(["wide:m0"], [{"key": k} for k in keys]).to_dict()["m0"]
    whole = pq.read_table(folder / "wide", columns=["key", "ts", "m0"])
    whole = whole.filter(pc.is_in(whole["key"], pa.array(keys))).sort_by("ts")
    newest = dict(zip(whole["key"].to_pylist(), whole["m0"].to_pylist(), strict=True))
    wrong = sum(mine != newest[k] for k, mine in zip(keys, got, strict=True))
    if wrong > len(keys) // 100:  # two rows of one key in the same second have no order
        raise ValueError(f"{wrong} of {len(keys)} keys do not have their newest row")
    return spent


if __name__ == "__main__":
    logging.disable(logging.INFO)
    serve({"training_set": training_set, "fill": fill, "read": read, "materialize": materialize, "version": lambda: feast.__version__})

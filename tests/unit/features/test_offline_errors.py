from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Entity, FeatureView, Label, Service, Table
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.features import training_frame
from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import AT
from tidemill.versioning.ports import Scan

TRIPS = Table("trips", "files:trips", "left_at", "filed_at", key="trip")
BUSY = FeatureView("busy", Entity("place"), TRIPS, [mean("delay", over="1h", hop="5m"), latest("word", ttl="1h")])
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)


def scan(folder: Path, **columns: object) -> dict[str, Scan]:
    rows = pa.table({"trip": ["x"], "place": ["a"], "delay": [1.0], "word": ["w"], "left_at": [NOON], "filed_at": [NOON]} | columns)
    pq.write_table(rows, folder / "rows.parquet")
    return {"trips": Scan("trips", 1, rows.schema, (str(folder / "rows.parquet"),))}


def spine(**columns: object) -> pa.Table:
    return pa.table({"place": ["a", "b"], AT: [NOON, NOON]} | columns)


def test_wrong_tables_are_refused_with_the_column(tmp_path: Path) -> None:
    store = DuckOfflineStore()
    with pytest.raises(NotFoundError, match="no scan of table named 'trips'"):
        store.join(spine(), [BUSY], {})
    with pytest.raises(InvalidError, match="'left_at' of table 'trips' is timestamp"):
        store.join(spine(), [BUSY], scan(tmp_path, left_at=[NOON.replace(tzinfo=None)]))
    with pytest.raises(InvalidError, match="busy__delay_mean_1h needs numbers"):
        store.join(spine(), [BUSY], scan(tmp_path, delay=["1.0"]))
    with pytest.raises(InvalidError, match="has no column gone"):
        store.join(spine(), [FeatureView("b", Entity("place"), TRIPS, [latest("gone", ttl="1h")])], scan(tmp_path))
    with pytest.raises(InvalidError, match="already has busy__word"):
        store.join(spine(busy__word=["a", "b"]), [BUSY], scan(tmp_path))
    with pytest.raises(InvalidError, match="lacks at"):
        store.explain({"place": "a"}, BUSY, scan(tmp_path)["trips"])


def test_columns_added_later_are_null_in_older_files(tmp_path: Path) -> None:
    old = scan(tmp_path)["trips"]
    pq.write_table(
        pa.table({"trip": ["y"], "place": ["b"], "delay": [None], "word": ["v"], "left_at": [NOON], "filed_at": [NOON], "new": [4.0]}),
        tmp_path / "new.parquet",
    )
    schema = old.schema.append(pa.field("new", pa.float64()))
    both = Scan("trips", 2, schema, (*old.paths, str(tmp_path / "new.parquet")))
    view = FeatureView(
        "b", Entity("place"), TRIPS, [mean("new", over="1h", hop="5m"), count(over="1h", hop="5m"), latest("word", ttl="1h")]
    )
    found = DuckOfflineStore().join(spine(), [view], {"trips": both})
    assert found["b__new_mean_1h"].to_pylist() == [None, 4.0]
    assert found["b__count_1h"].to_pylist() == [1, 1]
    assert found["b__word"].to_pylist() == ["w", "v"]


def test_a_null_time_in_the_spine_has_no_features(tmp_path: Path) -> None:
    view = FeatureView("b", Entity("place"), TRIPS, [count(over="1h", hop="5m"), latest("word", ttl="1h")])
    found = DuckOfflineStore().join(spine(place=["a", "a"], at=pa.array([None, NOON])), [view], scan(tmp_path))
    assert found["b__count_1h"].to_pylist() == [0, 1]
    assert found["b__word"].to_pylist() == [None, "w"]


def test_a_frame_names_what_the_spine_lacks(tmp_path: Path) -> None:
    planned = Table("planned", "files:planned", "due_at", "filed_at", key="trip")
    service = Service("late", ["load", BUSY], Label("l", TRIPS, "1", "trip"), planned, "trip", lead="1h")
    rows = pa.table({"trip": [1], "place": ["a"], "due_at": [NOON]})
    with pytest.raises(InvalidError, match="uses load, which its spine 'planned' lacks"):
        training_frame(service, rows, DuckOfflineStore(), scan(tmp_path))
    with pytest.raises(InvalidError, match="lack 'due_at'"):
        training_frame(service, rows.drop_columns(["due_at"]), DuckOfflineStore(), scan(tmp_path))
    made = training_frame(service, rows.append_column("load", pa.array([3])), DuckOfflineStore(), scan(tmp_path))
    assert made["id"].to_pylist() == ["1"]
    assert made["at"].to_pylist() == [NOON.replace(hour=11)]
    assert made["busy__word"].to_pylist() == [None], "not known an hour ahead"

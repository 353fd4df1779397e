from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.core.aggregates import count
from tidemill.core.definitions import Entity, FeatureView, Label, Service, Table, on_demand
from tidemill.core.errors import InvalidError
from tidemill.features import append_on_demand, apply_on_demand, arrays

TABLE = Table("trips", "files:trips", "left", "filed", key="id")


@on_demand
def hour(left: Any) -> Any:
    return left.astype("M8[h]").astype(np.int64) % 24


@on_demand
def night(hour: Any) -> Any:
    return (hour < 6) | (hour > 21)


@on_demand
def half(load: Any) -> Any:
    return load // 2


def service(*features: Any) -> Service:
    return Service(
        "late",
        [FeatureView("busy", Entity("place"), TABLE, [count(over="1h", hop="5m")]), *features],
        Label("l", TABLE, "1", "id"),
        TABLE,
        "id",
    )


def test_later_features_read_earlier_ones() -> None:
    left = np.array(["2020-01-01T23:30", "2020-01-01T12:00"], dtype="M8[ms]")
    found = apply_on_demand(service(hour, night), {"left": left})
    assert found["hour"].tolist() == [23, 12]
    assert found["night"].tolist() == [True, False]


def test_a_row_alone_gives_what_it_gives_in_a_batch() -> None:
    batch = pa.table({"load": pa.array([5, None, 7])})
    alone = pa.table({"load": pa.array([5])})
    whole = append_on_demand(service(half), batch)["half"]
    single = append_on_demand(service(half), alone)["half"]
    assert whole.to_pylist() == [2.0, None, 3.0]
    assert single.to_pylist() == [2.0]
    assert single.type == whole.type


def test_arrays_have_one_type_for_one_kind() -> None:
    table = pa.table(
        {
            "when": pa.array([datetime(2020, 1, 1, tzinfo=UTC), None]).cast(pa.timestamp("ms", "UTC")),
            "flag": [True, None],
            "word": pa.array(["a", None]).dictionary_encode(),
        }
    )
    made = arrays(table, table.column_names)
    assert made["when"].dtype == "datetime64[us]"
    assert np.isnat(made["when"][1])
    assert made["flag"].tolist()[0] == 1.0
    assert np.isnan(made["flag"][1])
    assert made["word"].tolist() == ["a", None]


def test_errors_name_the_feature() -> None:
    @on_demand
    def broken(load: Any) -> Any:
        return load.missing

    @on_demand
    def short(load: Any) -> Any:
        return load[:1]

    @on_demand
    def vandal(load: Any) -> Any:
        load[:] = 0
        return load

    load = {"load": np.array([1.0, 2.0])}
    with pytest.raises(InvalidError, match="'broken' failed: AttributeError"):
        apply_on_demand(service(broken), load)
    with pytest.raises(InvalidError, match=r"'short' returned shape \(1,\) for 2 rows"):
        apply_on_demand(service(short), load)
    with pytest.raises(InvalidError, match="read-only"):
        apply_on_demand(service(vandal), load)
    with pytest.raises(InvalidError, match="reads left"):
        apply_on_demand(service(hour), load)
    with pytest.raises(InvalidError, match="read left, which the rows lack"):
        append_on_demand(service(hour), pa.table({"load": [1]}))

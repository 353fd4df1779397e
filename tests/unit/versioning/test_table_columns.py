"""Types that tables keep, and rows that fit them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.errors import InvalidError
from tidemill.versioning.embedded.columns import conform, storable


def test_types_are_kept_in_what_iceberg_has() -> None:
    given: dict[str, Any] = {
        "a": pa.int8(),
        "b": pa.uint32(),
        "c": pa.dictionary(pa.int32(), pa.large_string()),
        "d": pa.timestamp("ns", "America/New_York"),
        "e": pa.timestamp("s"),
        "f": pa.float16(),
        "g": pa.null(),
        "h": pa.bool_(),
        "i": pa.date64(),
        "j": pa.time32("ms"),
    }
    found = storable(pa.schema([pa.field(name, kind, nullable=pa.types.is_null(kind)) for name, kind in given.items()]))
    wanted = [pa.int32(), pa.int64(), pa.string(), pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float32(), pa.string(), pa.bool_()]
    assert found.types == [*wanted, pa.date32(), pa.time64("us")]
    assert all(field.nullable for field in found)


@pytest.mark.parametrize("kind", [pa.uint64(), pa.duration("s"), pa.dictionary(pa.int8(), pa.uint64())])
def test_types_that_cannot_be_kept(kind: Any) -> None:
    with pytest.raises(InvalidError, match="'x'"):
        storable(pa.schema([("x", kind)]))


def test_two_columns_of_one_name() -> None:
    with pytest.raises(InvalidError, match="twice"):
        storable(pa.schema([("x", pa.int64()), ("x", pa.int64())]))


def test_values_are_converted_only_without_loss() -> None:
    schema = pa.schema([("n", pa.int64()), ("t", pa.timestamp("us", "UTC")), ("s", pa.string())])
    moment = datetime(2013, 3, 1, 6, tzinfo=timezone(timedelta(hours=-5)))
    rows = pa.table(
        {"s": pa.array(["a", None]).dictionary_encode(), "t": pa.array([moment] * 2, pa.timestamp("ms", "-05:00")), "n": [3.0, None]}
    )
    assert conform(rows, schema, "t").to_pylist()[0] == {"n": 3, "t": datetime(2013, 3, 1, 11, tzinfo=UTC), "s": "a"}
    for bad in (
        {"n": [0.5]},
        {"n": [2.0**70]},
        {"n": ["3"]},
        {"t": pa.array([0], pa.timestamp("us"))},
        {"t": [3]},
        {"s": [3]},
        {"n": [True]},
    ):
        with pytest.raises(InvalidError):
            conform(pa.table(bad), schema, "t")
    nanos = pa.table({"t": pa.array([1], pa.timestamp("ns", "UTC"))})
    with pytest.raises(InvalidError, match="without loss"):
        conform(nanos, schema, "t")

"""What is packed a column at a time reads as what is packed one by one."""

import datetime as dt
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.aggregates import latest
from tidemill.core.definitions import Entity, FeatureView, Table
from tidemill.features.embedded import decode
from tidemill.features.embedded.packed import one_row_states
from tidemill.features.embedded.plans import key_text, key_texts
from tidemill.features.embedded.tiles import ViewPlan, pack

ROWS = Table("rows", "files:rows", "at", "known", key="id")
UTC = pa.timestamp("us", "UTC")
WHOLE = st.integers(-(2**63), 2**63 - 1)
COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float64(): st.floats() | st.sampled_from([-0.0, float("nan"), float("inf"), -float("inf")]),
    pa.float32(): st.floats(width=32),
    pa.int64(): WHOLE | st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, -1, -33]),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.string(): st.text() | st.sampled_from([0, 31, 32, 255, 256, 70_000]).map(lambda n: "ü" * (n // 2) + "x" * (n % 2)),
    pa.large_string(): st.text(max_size=3),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b"]),
    pa.binary(): st.binary(max_size=300),
    UTC: st.integers(0, 2**52).map(lambda us: dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)),
    pa.decimal128(9, 2): st.integers(-99, 99).map(lambda n: Decimal(n) / 4),
    pa.null(): st.none(),
}
KINDS = {f"c{i}": kind for i, kind in enumerate(COLUMNS)}
ONE = st.fixed_dictionaries({name: st.none() | COLUMNS[kind] for name, kind in KINDS.items()})


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(ONE, WHOLE, WHOLE, st.integers(1, 2**40), st.booleans()), max_size=5), st.integers(0, 2**62))
def test_any_row_reads_as_if_it_had_been_packed_alone(drawn: list[tuple[dict[str, Any], int, int, int, bool]], at: int) -> None:
    plan = ViewPlan(FeatureView("all", Entity("place"), ROWS, [latest(*KINDS, ttl="1h")]))
    given_columns = {name: pa.array([row[name] for row, *_ in drawn], kind) for name, kind in KINDS.items()}
    columns = decode.columns([plan], pa.table({"place": pa.array(["a"] * len(drawn))} | given_columns))
    event, known, number = (np.array([row[i] for row in drawn], dtype=np.int64) for i in (1, 2, 3))
    cut = np.array([row[4] for row in drawn], dtype=bool)
    made = one_row_states(plan, columns, (event, known, number), cut, at)
    expected = []
    for row, values in zip(drawn, decode.values(plan, columns), strict=True):
        state = plan.new()
        plan.advance(state, at)
        state.newest, state.cut = [(*row[1:4], values)], row[4]
        expected.append(pack(state))
    assert list(map(msgspec.msgpack.decode, made)) == list(map(msgspec.msgpack.decode, expected))


def test_a_view_of_many_features() -> None:
    """More than MessagePack's shortest header of an array can count."""
    names = [f"f{i}" for i in range(20)]
    plan = ViewPlan(FeatureView("all", Entity("place"), ROWS, [latest(*names, ttl="1h")]))
    rows = pa.table({"place": ["a", "b"]} | {name: [float(i), None] for i, name in enumerate(names)})
    two = np.array([3, 4])
    made = one_row_states(plan, decode.columns([plan], rows), (two, two, two), np.array([True, False]), 5)
    assert plan.unpack(made[0]).newest == [(3, 3, 3, [float(i) for i in range(20)])]
    assert plan.unpack(made[1]).newest == [(4, 4, 4, [None] * 20)]
    assert [plan.unpack(body).cut for body in made] == [True, False]


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([3, -1, 2**62]),
        pa.array(["a", "", "Z9"]),
        pa.array(["a", 'b"', "ü"]),
        pa.array([1.0, 2.5]),
        pa.array([True, False]),
        [("a", 1), ("b\\", 2)],
        [],
    ],
)
def test_keys_are_spelled_alike(keys: Any) -> None:
    one_by_one = [key_text(key) for key in (keys.to_pylist() if isinstance(keys, pa.Array) else keys)]
    assert key_texts(keys).to_pylist() == one_by_one

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import InvalidError
from tidemill.features.embedded.source import Int64
from tidemill.features.embedded.timeline import Timeline, accumulate, encode, expand

ITEMS = st.lists(st.tuples(st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=40)


@given(ITEMS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(-1, 10)), min_size=1, max_size=10))
def test_accumulate_equals_a_loop(items: list[tuple[int, int]], queries: list[tuple[int, int, int]]) -> None:
    time, values = np.array([t for t, _ in items]), np.array([v for _, v in items], dtype=np.float64)
    left, right = (np.array([min(q[i], len(items)) for q in queries]) for i in (0, 1))
    until = np.array([q[2] for q in queries])
    for operation, identity in ((np.add, 0.0), (np.minimum, np.inf), (np.maximum, -np.inf)):
        found = accumulate(left, right, until, time, [values], operation, identity)[0]
        for i, (a, b, t) in enumerate(zip(left, right, until, strict=True)):
            assert found[i] == operation.reduce(values[a:b][time[a:b] <= t], initial=identity)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30), st.integers(0, 3), st.integers(-1, 10))
def test_find_counts_what_is_at_or_before(items: list[tuple[int, int]], code: int, time: int) -> None:
    codes, times = np.array([c for c, _ in items], dtype=np.int64), np.array([t for _, t in items], dtype=np.int64)
    line = Timeline(codes, times, 4)
    place = line.find(np.array([code]), np.array([time]))[0] - line.start(np.array([code]))[0]
    assert place == sum(c == code and t <= time for c, t in items)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8), st.integers(1, 30))
def test_expand_visits_each_pair_once(ranges: list[tuple[int, int]], chunk: int) -> None:
    seen: list[tuple[int, int]] = []

    def visit(query: Int64, position: Int64) -> None:
        seen.extend(zip(query.tolist(), position.tolist(), strict=True))

    expand(np.array([a for a, _ in ranges], dtype=np.int64), np.array([b for _, b in ranges], dtype=np.int64), chunk, visit)
    assert seen == [(q, p) for q, (a, b) in enumerate(ranges) for p in range(a, b)]


def test_keys_of_other_widths_are_equal_and_of_other_kinds_an_error() -> None:
    spine = pa.table({"k": pa.array([1, None, 3], pa.int32())})
    rows = pa.table({"k_k": pa.array([3, 1, None, 4], pa.int64())})
    asked, owned, codes = encode(spine, rows, ("k",), "v")
    assert asked[0] == owned[1]
    assert asked[2] == owned[0]
    assert (asked[1], owned[2]) == (-1, -1)
    assert codes == 3
    with pytest.raises(InvalidError, match="cast one"):
        encode(pa.table({"k": ["1"]}), rows, ("k",), "v")
    nothing, _, _ = encode(pa.table({"k": pa.nulls(2)}), rows, ("k",), "v")
    assert nothing.tolist() == [-1, -1]
    coded, owned, _ = encode(
        pa.table({"k": pa.array(["x", "y"]).dictionary_encode()}), pa.table({"k_k": pa.array(["y"], pa.large_string())}), ("k",), "v"
    )
    assert coded[1] == owned[0]

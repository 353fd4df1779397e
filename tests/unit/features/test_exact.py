import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.embedded.exact import grow, join, split, total

FLOATS = st.lists(
    st.floats(-1e300, 1e300, allow_nan=False) | st.integers(-99, 99).map(float) | st.sampled_from([1e16, -1e16, 1e-9, 5e-324]), max_size=30
)


@given(FLOATS, st.integers(0, 30), st.integers(0, 30))
def test_a_difference_of_running_sums_is_the_sum_between(values: list[float], i: int, j: int) -> None:
    low, high = sorted((min(i, len(values)), min(j, len(values))))
    parts, base = split(np.array(values, dtype=np.float64))
    sums = [np.concatenate([[0], np.cumsum(p)]) for p in parts]
    found = join([s[high : high + 1] - s[low : low + 1] for s in sums], base)[0]
    assert found == math.fsum(values[low:high])


TIES = st.lists(st.sampled_from([2.0**53, -(2.0**53), 1.0, -1.0, 0.5, -0.5, 2.0**-60, -(2.0**-60), 5e-324, 3.0, 1e15, 0.0625]), max_size=8)


@given(TIES | FLOATS, FLOATS, st.sampled_from([30, 40, 50]))
def test_a_sum_is_rounded_once_whatever_else_the_column_has(values: list[float], others: list[float], bits: int) -> None:
    for column in (values, [*values, *others]):
        parts, base = split(np.array(column, dtype=np.float64), bits)
        assert join([p[: len(values)].sum(keepdims=True) for p in parts], base, bits)[0] == math.fsum(values)


def test_a_sum_beyond_the_range_of_floats_is_infinite() -> None:
    for sign in (1, -1):
        parts, base = split(np.array([1e308, 1e308]) * sign)
        assert join([p.sum(keepdims=True) for p in parts], base)[0] == sign * math.inf


def test_nan_is_nothing_and_whole_numbers_need_one_part() -> None:
    parts, base = split(np.array([1.0, math.nan, 40.0]))
    assert base == 0
    assert [p.tolist() for p in parts] == [[1, 0, 40]]


@given(FLOATS, st.randoms())
def test_what_was_added_can_be_taken_out_in_any_order(values: list[float], random: object) -> None:
    partials: list[float] = []
    for value in values:
        grow(partials, value)
    half = values[::2]
    for value in reversed(half):
        grow(partials, -value)
    assert math.isclose(total(partials), math.fsum(values[1::2]), rel_tol=1e-15)
    for value in values[1::2]:
        grow(partials, -value)
    assert partials == []


def test_a_sum_beyond_floats_is_infinite() -> None:
    assert total([1e308, 1e308]) == math.inf

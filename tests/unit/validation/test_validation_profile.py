import numpy as np
import pyarrow as pa
import pytest

from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.validation.embedded import SketchProfiler
from tidemill.validation.embedded.quantiles import K, Quantiles
from tidemill.validation.ports import Profile


def _profile(values: object) -> Profile:
    return SketchProfiler().profile(pa.table({"c": values}))


@pytest.mark.parametrize("size", [1, 2 * K - 1, 2 * K, 5_000, 100_000])
def test_quantiles_of_a_bulk_are_off_by_less_than_one_part_in_k(size: int) -> None:
    values = np.random.default_rng(size).exponential(size=size)
    sketch, ranks = Quantiles.of(values), np.arange(1, 100) / 100
    assert sketch.n == size
    reached = np.searchsorted(np.sort(values), sketch.at(ranks), side="right") / size
    assert np.abs(reached - ranks).max() <= 1 / K + 1 / size
    assert np.abs(sketch.below(np.quantile(values, ranks)) / size - ranks).max() <= 1 / K + 1 / size


def test_small_sketches_are_exact() -> None:
    sketch = Quantiles.of(np.arange(200.0)[::-1])
    assert sketch.at(np.array([0.0, 0.005, 0.5, 1.0])).tolist() == [0, 0, 99, 199]
    assert sketch.below(np.array([-1.0, 0.0, 99.5, 500.0])).tolist() == [0, 1, 100, 200]


def test_a_sketch_stays_small_however_much_is_merged() -> None:
    sketch, values = Quantiles(), np.random.default_rng(1).normal(size=200_000)
    for part in np.array_split(values, 2_000):
        sketch = sketch.merge(Quantiles.of(part))
    assert sketch.n == 200_000
    ranks = np.arange(1, 100) / 100
    off = np.searchsorted(np.sort(values), sketch.at(ranks)) / 200_000 - ranks
    assert np.abs(off).max() < 0.01
    assert abs(off.mean()) < 0.003  # errors cancel
    assert sum(len(level) for level in sketch.pack()[1]) < 2 * K * 8 * 12


def test_texts_are_counted_exactly_up_to_a_thousand_and_estimated_above() -> None:
    few = _profile([f"v{i % 1000}" for i in range(3000)]).column("c")
    assert (few["distinct"], few["top"][0]) == (1000, ["v0", 3])
    many = _profile(["often"] * 5000 + [f"v{i}" for i in range(20_000)]).column("c")
    assert abs(many["distinct"] - 20_001) < 20_001 * 0.07
    assert many["top"][0][0] == "often"
    assert abs(many["top"][0][1] - 5000) < 25_000 * 0.01


def test_exact_and_estimated_texts_merge() -> None:
    many, few = _profile([f"v{i}" for i in range(5000)]), _profile(["often"] * 4000)
    for merged in (many.merge(few), few.merge(many)):
        facts = merged.column("c")
        assert facts["n"] == 9000
        assert facts["top"][0][0] == "often"
        assert abs(facts["distinct"] - 5001) < 5001 * 0.07


def test_a_column_that_one_side_lacks_is_null_there() -> None:
    profiler = SketchProfiler()
    merged = profiler.profile(pa.table({"a": [1, 2]})).merge(profiler.profile(pa.table({"b": ["x"]})))
    assert merged.columns() == ["a", "b"]
    assert (merged.column("a")["n"], merged.column("a")["nulls"]) == (2, 1)
    assert (merged.column("b")["n"], merged.column("b")["nulls"]) == (1, 2)


def test_kinds_that_differ_cannot_merge_unless_one_is_empty() -> None:
    with pytest.raises(InvalidError, match="cannot be a number in one profile and a text in the other"):
        _profile([1]).merge(_profile(["x"]))
    assert _profile([1]).merge(_profile(pa.nulls(3))).column("c")["nulls"] == 3


def test_moments_keep_their_digits_far_from_zero() -> None:
    values = 1.4e15 + np.random.default_rng(2).normal(size=20_000)
    merged = _profile(values[:7_000]).merge(_profile(values[7_000:])).column("c")
    assert merged["std"] == pytest.approx(float(np.std(values)), rel=1e-6)
    assert merged["mean"] == pytest.approx(float(np.mean(values)), rel=1e-12)


def test_large_integers_keep_their_ends() -> None:
    facts = _profile([2**62 + 1, -(2**62) - 1]).column("c")
    assert (facts["min"], facts["max"]) == (-(2**62) - 1, 2**62 + 1)


def test_histogram_covers_all_values() -> None:
    facts = _profile(np.append(np.random.default_rng(4).normal(size=5000), [1e9, -1e9])).column("c")
    edges, counts = facts["histogram"]["edges"], facts["histogram"]["counts"]
    assert (len(edges), len(counts), sum(counts)) == (21, 20, 5002)
    assert (edges[0], edges[-1]) == (-1e9, 1e9)
    assert edges[1] > -4
    constant = _profile([3.0] * 5).column("c")["histogram"]
    assert (sum(constant["counts"]), constant["edges"][0]) == (5, 3.0)


def test_distance_from_sketches_is_that_of_the_raw_rows() -> None:
    random = np.random.default_rng(6)
    old, new = random.gamma(2.0, size=50_000), random.gamma(2.4, size=20_000)
    days = [_profile(part) for part in np.array_split(new, 20)]
    merged = days[0]
    for day in days[1:]:
        merged = merged.merge(day)
    edges = np.quantile(old, np.arange(1, 10) / 10)
    shares = [np.bincount(np.searchsorted(edges, part), minlength=10) / len(part) for part in (old, new)]
    exact = float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))
    assert _profile(old).distance(merged, "c") == pytest.approx(exact, abs=0.01)


def test_distance_sees_nulls_constants_and_columns_gone() -> None:
    base = _profile([5.0] * 1000)
    assert base.distance(_profile([5.0] * 900), "c") < 0.01
    assert base.distance(_profile([6.0] * 900), "c") > 1
    assert base.distance(_profile([5.0] * 450 + [None] * 450), "c") > 1
    assert base.distance(SketchProfiler().profile(pa.table({"other": [1] * 900})), "c") > 1


def test_unknown_columns_are_named() -> None:
    with pytest.raises(NotFoundError, match="no column named 'd'"):
        _profile([1]).column("d")
    with pytest.raises(NotFoundError, match="no column named 'd'"):
        SketchProfiler().profile(pa.table({"c": [1]}), ["d"])
    assert SketchProfiler().profile(pa.table({"c": [1], "d": [2]}), ["d"]).columns() == ["d"]

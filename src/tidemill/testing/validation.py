"""What every profiler and schema store must keep."""

import datetime as dt
import decimal
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.errors import ConflictError, InvalidError
from tidemill.testing.contract import Contract, keeps
from tidemill.validation.ports import ColumnRules, Profiler, SchemaStore, TableSchema

_NUMBERS = st.none() | st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0])
_TEXTS = st.none() | st.sampled_from(["a", "b", "ü\x00", ""]) | st.text(max_size=4)
_ROWS = st.lists(st.tuples(_NUMBERS, _TEXTS), max_size=40)


def _table(rows: list[tuple[float | None, str | None]]) -> pa.Table:
    return pa.table({"x": pa.array([r[0] for r in rows], pa.float64()), "s": pa.array([r[1] for r in rows], pa.string())})


class ProfilerContract(Contract):
    """Supply a `profiler` fixture."""

    @pytest.fixture
    def profiler(self) -> Profiler:
        """The profiler under test."""
        raise TypeError("supply a `profiler` fixture")

    @keeps("mergeable")
    def test_merging_equals_profiling_both(self, profiler: Profiler) -> None:
        @settings(deadline=None, max_examples=60)
        @given(_ROWS, _ROWS)
        def check(a: list[Any], b: list[Any]) -> None:
            merged = profiler.profile(_table(a)).merge(profiler.profile(_table(b)))
            whole = profiler.profile(_table(a + b))
            assert merged.rows == whole.rows
            assert merged.columns() == whole.columns()
            mine, other = merged.column("x"), whole.column("x")
            assert [mine[k] for k in ("kind", "n", "nulls", "min", "max")] == [other[k] for k in ("kind", "n", "nulls", "min", "max")]
            for key in ("mean", "std"):
                assert mine[key] == other[key] or math.isclose(mine[key], other[key], rel_tol=1e-9, abs_tol=1e-6)
            assert dict(merged.column("s")) == dict(whole.column("s"))

        check()

    @keeps("mergeable")
    def test_merged_quantiles_keep_their_rank(self, profiler: Profiler) -> None:
        random = np.random.default_rng(7)
        parts = [random.lognormal(mean=day % 7, size=1000 + 13 * day) for day in range(60)]
        merged = profiler.profile(pa.table({"x": parts[0]}))
        for part in parts[1:]:
            merged = merged.merge(profiler.profile(pa.table({"x": part})))
        whole = np.sort(np.concatenate(parts))
        for rank, value in merged.column("x")["quantiles"].items():
            assert abs(np.searchsorted(whole, value) / len(whole) - float(rank)) <= 0.02

    def test_merging_changes_neither_side(self, profiler: Profiler) -> None:
        a, b = profiler.profile(_table([(1.0, "a")] * 300)), profiler.profile(_table([(2.0, "b")] * 300))
        before = a.to_bytes(), b.to_bytes()
        a.merge(b)
        assert (a.to_bytes(), b.to_bytes()) == before

    @keeps("lossless")
    def test_load_is_lossless(self, profiler: Profiler) -> None:
        random = np.random.default_rng(3)
        rows = pa.table({"x": random.normal(size=5000), "s": [f"k{i % 1700}" for i in range(5000)], "t": [i % 2 == 0 for i in range(5000)]})
        profile = profiler.profile(rows)
        again = profiler.load(profile.to_bytes())
        assert again.rows == profile.rows
        assert again.columns() == profile.columns()
        for name in profile.columns():
            assert again.column(name) == profile.column(name)
            assert again.distance(profile, name) == profile.distance(profile, name)
        assert again.merge(profile).to_bytes() == profile.merge(profile).to_bytes()

    def test_load_refuses_other_bytes(self, profiler: Profiler) -> None:
        good = profiler.profile(_table([(1.0, "a")])).to_bytes()
        for bad in (b"", b"nonsense", good[: len(good) // 2], good[4:], good[:10] + bytes(10)):
            with pytest.raises(InvalidError):
                profiler.load(bad)

    @keeps("repeatable")
    def test_equal_rows_give_equal_bytes(self, profiler: Profiler) -> None:
        rows = _table([(float(i * i % 977), f"v{i % 1300}") for i in range(4000)])
        assert profiler.profile(rows).to_bytes() == profiler.profile(rows).to_bytes()

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([1, None, 3], pa.int8()),
            pa.array([2**64 - 1, 0], pa.uint64()),
            pa.array([1.5, float("nan"), float("inf"), float("-inf"), None]),
            pa.array([float("nan")] * 3),
            pa.array([np.float16(1.5)], pa.float16()),
            pa.array([decimal.Decimal("1.10"), None], pa.decimal128(9, 2)),
            pa.array([True, None, False]),
            pa.array(["x" * 5000, "y" * 5000, None]),
            pa.array(["ü", "\x00"], pa.large_string()),
            pa.array([b"\xff\x00", b""]),
            pa.array(["a", "b", "a"]).dictionary_encode(),
            pa.array([1, 2, 1]).dictionary_encode(),
            pa.array([dt.date(2013, 1, 1), None]),
            pa.array([dt.time(1, 2, 3)]),
            pa.array([dt.timedelta(days=1)], pa.duration("s")),
            pa.array([1, 2], pa.timestamp("ns", tz="America/New_York")),
            pa.array([None, None], pa.null()),
            pa.array([[1, 2], None, []], pa.list_(pa.int64())),
            pa.array([{"a": 1}, None]),
        ],
        ids=lambda values: str(values.type)[:24],
    )
    @keeps("total")
    def test_every_type_has_a_profile(self, profiler: Profiler, values: pa.Array) -> None:
        for part in (values, values.slice(0, 0)):
            profile = profiler.profile(pa.table({"c": part}))
            facts = profile.column("c")
            assert facts["n"] + facts["nulls"] == len(part)
            assert profile.merge(profiler.load(profile.to_bytes())).rows == 2 * len(part)

    def test_distance_tells_drift_from_none(self, profiler: Profiler) -> None:
        random = np.random.default_rng(5)
        base = profiler.profile(pa.table({"x": random.normal(size=9000), "s": random.choice(["a", "b", "c"], 9000)}))
        same = profiler.profile(pa.table({"x": random.normal(size=2000), "s": random.choice(["a", "b", "c"], 2000)}))
        moved = profiler.profile(pa.table({"x": random.normal(0.7, size=2000), "s": random.choice(["a", "b", "d"], 2000)}))
        lost = profiler.profile(pa.table({"x": pa.nulls(2000, pa.float64()), "s": pa.nulls(2000, pa.string())}))
        for column in ("x", "s"):
            assert base.distance(same, column) < 0.02
            assert base.distance(moved, column) > 0.2
            assert base.distance(lost, column) > 1


_RULES = TableSchema(
    "flights",
    (
        ColumnRules("delay", "number", null_fraction=0.1, low=-60.0, high=1500.5, outside=0.01, quantiles={"0.5": (-10.0, 40.0)}),
        ColumnRules("carrier", "text", required=False, domain=("AA", "NO", "1"), outside=0.05),
        ColumnRules("at", "time", null_fraction=0.0, low=0.0),
        ColumnRules("yes", "boolean"),
    ),
    unique=("carrier", "at"),
    allow_new_columns=True,
    inferred_from="3 rows: yesterday's, with a # and ü",
)


class SchemaStoreContract(Contract):
    """Supply a `store` fixture (empty), and `edit`, which changes a stored schema the way a person would."""

    @pytest.fixture
    def store(self) -> SchemaStore:
        """The store under test."""
        raise TypeError("supply a `store` fixture")

    def edit(self, store: SchemaStore, table: str) -> None:
        """Make the table's schema allow no new columns, as a person would."""
        raise TypeError("supply `edit`")

    @keeps("faithful")
    def test_saved_is_found_equal(self, store: SchemaStore) -> None:
        assert store.find("flights") is None
        store.save(_RULES)
        assert store.find("flights") == _RULES
        assert store.find("other") is None

    def test_saving_again_replaces_what_was_inferred(self, store: SchemaStore) -> None:
        store.save(_RULES)
        store.save(replace(_RULES, unique=()))
        assert store.find("flights") == replace(_RULES, unique=())

    @keeps("curated")
    def test_an_edit_is_never_lost(self, store: SchemaStore) -> None:
        store.save(_RULES)
        self.edit(store, "flights")
        edited = store.find("flights")
        assert edited == replace(_RULES, allow_new_columns=False)
        with pytest.raises(ConflictError):
            store.save(_RULES)
        assert store.find("flights") == edited
        store.save(_RULES, overwrite=True)
        assert store.find("flights") == _RULES

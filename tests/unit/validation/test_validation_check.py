import datetime as dt

import pyarrow as pa
import pytest

from tidemill.validation import check
from tidemill.validation.embedded import SketchProfiler
from tidemill.validation.ports import Anomaly, ColumnKind, ColumnRules, TableSchema


def _audit(values: pa.Array, kind: ColumnKind = "number", **rules: object) -> list[Anomaly]:
    schema = TableSchema("t", (ColumnRules("c", kind, **rules),))  # type: ignore[arg-type]
    return list(check(pa.table({"c": values}), schema, SketchProfiler()).anomalies)


def test_rows_that_keep_every_rule_pass_and_have_a_profile() -> None:
    schema = TableSchema("t", (ColumnRules("c", "number", null_fraction=0.0, low=0, high=9, quantiles={"0.5": (3, 6)}),), unique=("c",))
    audit = check(pa.table({"c": list(range(10)) * 1}), schema, SketchProfiler())
    assert audit.passed
    assert audit.profile is not None
    assert audit.profile.column("c")["n"] == 10


def test_nulls_and_nans_count() -> None:
    values = pa.array([1.0, None, float("nan"), 4.0])
    assert _audit(values, null_fraction=0.5) == []
    (found,) = _audit(values, null_fraction=0.3)
    assert found == Anomaly("c", "null_fraction", "at most 30 % nulls", "50 % (2 of 4)", 2)


def test_a_share_above_zero_allows_one_row_and_zero_none() -> None:
    assert _audit(pa.array([1, None]), null_fraction=0.01) == []
    assert [a.rule for a in _audit(pa.array([1, None]), null_fraction=0.0)] == ["null_fraction"]
    assert _audit(pa.array([1, 99]), high=10, outside=0.01) == []
    assert [a.rule for a in _audit(pa.array([1, 99]), high=10)] == ["range"]


def test_range_names_both_ends_and_counts_the_rows() -> None:
    (found,) = _audit(pa.array([-5, 0, 5, 500, float("inf")]), low=-1, high=100)
    assert found == Anomaly("c", "range", "-1 to 100", "-5 to inf", 3)
    assert _audit(pa.array([-1, 100]), low=-1, high=100) == []
    assert [a.expected for a in _audit(pa.array([5]), high=1)] == ["-inf to 1"]


def test_range_of_times_is_spelled_as_times() -> None:
    values = pa.array([dt.datetime(1999, 12, 31, tzinfo=dt.UTC)], pa.timestamp("us", tz="UTC"))
    (found,) = _audit(values, "time", low=946_684_800_000_000)
    assert (found.expected, found.observed) == ("2000-01-01T00:00:00Z to inf", "1999-12-31T00:00:00Z to 1999-12-31T00:00:00Z")


def test_quantiles_are_judged_from_twenty_values_on() -> None:
    assert _audit(pa.array([100] * 19), quantiles={"0.5": (0, 10)}) == []
    (found,) = _audit(pa.array([100] * 20), quantiles={"0.5": (0, 10)})
    assert found == Anomaly("c", "quantiles", "50 % quantile in 0 to 10", "100", 0)


def test_domain_lists_the_strangers() -> None:
    values = pa.array(["a", "b", "x", "y", None])
    (found,) = _audit(values, "text", domain=("a", "b"), outside=0.25)
    assert found == Anomaly("c", "domain", "one of 2 known values, but for 25 %", "50 % others: 'x', 'y'", 2)
    assert _audit(values, "text", domain=("a", "b"), outside=0.5) == []


@pytest.mark.parametrize(
    ("values", "kind"), [(pa.array(["1"]), "number"), (pa.array([1]), "text"), (pa.array([1]), "time"), (pa.array([1]), "boolean")]
)
def test_another_kind_is_a_type_anomaly(values: pa.Array, kind: ColumnKind) -> None:
    assert [(a.rule, a.expected) for a in _audit(values, kind)] == [("type", kind)]


def test_a_column_of_nulls_has_any_type() -> None:
    assert _audit(pa.nulls(3), "number", low=0) == []
    assert [a.rule for a in _audit(pa.nulls(3), "number", null_fraction=0.5)] == ["null_fraction"]


def test_columns_missing_new_and_renamed() -> None:
    schema = TableSchema("t", (ColumnRules("wind_speed", "number"), ColumnRules("text", "text", required=False)))
    audit = check(pa.table({"wind_kn": [1.5], "other": ["x"]}), schema, SketchProfiler())
    assert [(a.column, a.rule) for a in audit.anomalies] == [
        ("wind_speed", "missing_column"),
        ("wind_kn", "unexpected_column"),
        ("other", "unexpected_column"),
    ]
    assert audit.anomalies[0].observed == "no such column; is it now called 'wind_kn'?"


def test_unique_counts_repetitions_of_the_whole_key() -> None:
    schema = TableSchema("t", (ColumnRules("a", "number"), ColumnRules("b", "text")), unique=("a", "b"))
    rows = pa.table({"a": [1, 1, 2, 2], "b": ["x", "y", "x", "x"]})
    (found,) = check(rows, schema, SketchProfiler()).anomalies
    assert found == Anomaly("a, b", "unique", "each key once in a batch", "1 of 4 rows repeat one", 1)


def test_an_empty_batch_breaks_no_rule_but_those_of_its_columns() -> None:
    rules = ColumnRules("c", "number", null_fraction=0.0, low=1, high=2, quantiles={"0.5": (1, 2)})
    schema = TableSchema("t", (rules,), unique=("c",))
    assert check(pa.table({"c": pa.array([], pa.float64())}), schema, SketchProfiler()).passed
    assert not check(pa.table({"d": pa.array([], pa.float64())}), schema, SketchProfiler()).passed

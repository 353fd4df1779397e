"""The compiled query, run by DuckDB as it is printed, against the reference of the contract suites."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.aggregates import count, distinct, expression, latest, max_, mean, min_, quantile, std, sum_, top_k
from tidemill.core.definitions import Entity, FeatureView
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import AT
from tidemill.features.sql.compile import compile_join, script
from tidemill.features.sql.engines import ENGINES, Engine
from tidemill.features.sql.sources import compile_source
from tidemill.testing.features import EXAMPLES, histories, spine_table
from tidemill.testing.reference import KEYED, MINUTE, SCHEMA, VIEWS, reference, same, scans
from tidemill.versioning.ports import Scan

Rows = Sequence[Mapping[str, Any]]
SPINES = st.lists(
    st.fixed_dictionaries(
        {
            "place": st.sampled_from(["a", "b", None]),
            "lane": st.sampled_from([1, 2, None]),
            AT: st.integers(0, 40).map(lambda m: m * MINUTE),
        }
    ),
    min_size=1,
    max_size=8,
)


def run(view: FeatureView, scan: Scan, spine: pa.Table) -> list[dict[str, Any]]:
    """Run the printed script; the last statement is the query."""
    with duckdb.connect() as db:
        db.register("spine", spine)
        statements = db.extract_statements(script(view, scan, "duckdb"))
        for statement in statements[:-1]:
            db.execute(statement)
        made: list[dict[str, Any]] = db.sql(statements[-1].query).to_arrow_table().to_pylist()
    return sorted(made, key=lambda row: row["mine"])


def _row(name: str, **values: Any) -> dict[str, Any]:
    return {"id": name, "place": "a", "lane": 1, "happened": MINUTE, "learned": MINUTE, "delay": None, "word": None} | values


def differences(view: FeatureView, rows: Rows, spine: Rows, folder: Path, cuts: Sequence[int] = ()) -> list[Any]:
    """Where the query and the reference differ; the number of rows is part of it."""
    made = run(view, scans(folder, {view.table.name: rows}, cuts)[view.table.name], spine_table(spine))
    assert [row["mine"] for row in made] == list(range(len(spine)))
    expected = [reference(view, rows, asked, asked[AT]) for asked in spine]
    found = [{name: row[name] for name in view.columns} for row in made]
    return [(asked, e, f) for asked, e, f in zip(spine, expected, found, strict=True) if not same(e, f)]


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.name)
def test_any_history_equals_the_reference(view: FeatureView, tmp_path: Path) -> None:
    @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(), SPINES, st.lists(st.integers(0, 14), max_size=2))
    def check(rows: Rows, spine: Rows, cuts: list[int]) -> None:
        assert differences(view, rows, spine, tmp_path, cuts) == []

    check()


LONG = FeatureView(
    "long",
    Entity("place"),
    KEYED,
    [
        mean("delay", over="3d", hop="1h"),
        sum_("delay", over="20d", hop="12h"),
        count(over="30d", hop="1d"),
        max_("delay", over="3d", hop="1h"),
        min_("delay", over="30d", hop="1d"),
        latest("word", ttl="90d"),
        latest("delay", ttl="2h"),
    ],
)


def test_wide_windows_and_numbers_of_all_sizes(tmp_path: Path) -> None:
    """Times beyond 32 bits; corrections; sums whose terms cancel, between 1e-9 and 1e15."""
    draw = random.Random(7)

    def row(i: int) -> dict[str, Any]:
        event = draw.randrange(400 * DAY_US)
        return {
            "id": f"{draw.choice('xyz')}{i // 3}",
            "place": draw.choice("ab"),
            "lane": 1,
            "happened": event,
            "learned": event + draw.choice([0, 5, HOUR_US, 10 * DAY_US]),
            "delay": draw.choice([None, draw.choice([-1, 1]) * 10.0 ** draw.randrange(-9, 16), draw.uniform(-9, 9)]),
            "word": draw.choice(["u", "v", None]),
        }

    rows = [row(i) for i in range(120)]
    spine = [{"place": draw.choice(["a", "b", None, "c"]), "lane": 1, AT: draw.randrange(420 * DAY_US)} for _ in range(80)]
    assert differences(LONG, rows, spine, tmp_path) == []


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ([1e15, -1e15, 0.1], 0.1),
        ([1e308, 5e-324, -1e308], 5e-324),
        ([0.1] * 10, 1.0),
        ([2.0**64, -(2.0**64) + 2048, -2048.0, 3e-9], 3e-9),
        ([2.0**100, 2.0**68, -(2.0**100), 1.5, -(2.0**68)], 1.5),
        ([255.99999999999997, 256.0, -256.0, 2.2250738585072014e-308], 255.99999999999997),
    ],
)
def test_sums_are_exact(values: list[float], whole: float, tmp_path: Path) -> None:
    view = FeatureView("v", Entity("place"), KEYED, [sum_("delay", over="4m", hop="4m")])
    rows = [
        {"id": str(i), "place": "a", "lane": 1, "happened": MINUTE, "learned": MINUTE, "delay": x, "word": None}
        for i, x in enumerate(values)
    ]
    made = run(view, scans(tmp_path, {"keyed": rows})["keyed"], spine_table([{"place": "a", "lane": 1, AT: 2 * MINUTE}]))
    assert made[0]["v__delay_sum_4m"] == pytest.approx(whole, rel=1e-15, abs=0)


def test_no_rows_at_all(tmp_path: Path) -> None:
    made = run(VIEWS[0], Scan("keyed", None, SCHEMA, ()), spine_table([{"place": "a", "lane": 1, AT: 0}]))
    assert [made[0][c] for c in VIEWS[0].columns] == [None, None, 0, 0, None, None]


SPREAD = FeatureView("v", Entity("place"), KEYED, [std("delay", over="4m", hop="1m")])


@pytest.mark.parametrize(
    "values",
    [
        [1e15, 1e15 + 1, 1e15 + 3],
        [0.1] * 7,
        [1e308, -1e308, 3.0],
        [1e-300, 3e-300, 2e-300],
        [5e-324, 1e-323, 0.0],
        [1e200, 1e-200, 1e200],
        [-7.0, *[1e9 + i / 1024 for i in range(300)]],
    ],
    ids=["close", "equal", "huge", "tiny", "least", "both", "one-far"],
)
def test_deviations_do_not_cancel(values: list[float], tmp_path: Path) -> None:
    rows = [_row(str(i), delay=x, happened=(i % 4) * MINUTE) for i, x in enumerate(values)]
    made = run(SPREAD, scans(tmp_path, {"keyed": rows})["keyed"], spine_table([{"place": "a", "lane": 1, AT: 3 * MINUTE}]))
    expected = statistics.stdev(map(Fraction, values))
    assert made[0]["v__delay_std_4m"] == pytest.approx(expected, rel=1e-12, abs=0)


def test_sketches_are_those_of_core_to_the_last_bit(tmp_path: Path) -> None:
    """Quantiles of numbers of all sizes, a distinct count beyond what is exact, ties among the most frequent: equal to the embedded store."""
    draw = random.Random(3)
    sizes = [
        0.0,
        -0.0,
        5e-324,
        -1e-310,
        2.3e-308,
        1e-7,
        255.99999999999997,
        256.0,
        -512.5,
        1e15,
        -1.7e308,
        2.0**60,
        4.4501477170144023e-308,
    ]
    rows = [
        _row(
            str(i),
            delay=draw.choice(sizes) if i % 3 else draw.uniform(-9e5, 9e5),
            word=f"ü{draw.randrange(3000)}",
            lane=draw.randrange(9),
            happened=draw.randrange(9) * MINUTE,
        )
        for i in range(5000)
    ]
    features = [
        *(quantile("delay", q, over=over, hop="1m", name=f"q{i}_{over}") for i, q in enumerate((0, 0.1, 0.5, 0.99, 1)) for over in ("3m", "9m")),
        distinct("word", over=("1m", "9m"), hop="1m"), distinct("lane", over="9m", hop="3m"), top_k("lane", 9, over="9m", hop="3m"), top_k("word", 3, over="1m", hop="1m"),
    ]  # fmt: skip
    view = FeatureView("v", Entity("place"), KEYED, features)
    scan = scans(tmp_path, {"keyed": rows}, [2000])["keyed"]
    spine = spine_table([{"place": "a", "lane": 1, AT: minute * MINUTE} for minute in range(10)])
    expected = DuckOfflineStore().join(spine, [view], {"keyed": scan}).select(view.columns).to_pylist()
    assert [{name: row[name] for name in view.columns} for row in run(view, scan, spine)] == expected
    assert expected[-1]["v__word_distinct_9m"] > 1024


def test_expressions_see_zero_where_there_is_nothing(tmp_path: Path) -> None:
    """For a spine row without a key as well; a division by zero and what is not finite are null."""
    features = [
        count(over="4m", hop="4m"),
        sum_("delay", over="4m", hop="4m"),
        expression("more", "count_4m + 1"),
        expression("share", "1 / count_4m"),
        expression("odd", "1 / (1 / count_4m)"),
        expression("huge", "-delay_sum_4m * 1e300 * more"),
    ]
    view = FeatureView("v", Entity("place"), KEYED, features)
    spine = spine_table(
        [{"place": "a", "lane": 1, AT: MINUTE}, {"place": None, "lane": 1, AT: MINUTE}, {"place": "b", "lane": 1, AT: MINUTE}]
    )
    rows = [_row("x", delay=1e10), _row("y", place="b", delay=2.0)]
    made = run(view, scans(tmp_path, {"keyed": rows})["keyed"], spine)
    assert [[row[f"v__{n}"] for n in ("more", "share", "odd", "huge")] for row in made] == [
        [2, 1, 1, None],
        [1, None, None, None],
        [2, 1, 1, -4e300],
    ]


def test_an_expression_over_texts_is_refused() -> None:
    view = FeatureView("v", Entity("place"), KEYED, [latest("word", ttl="1h"), expression("e", "word + 1")])
    with pytest.raises(InvalidError, match=r"v__e.*v__word, which is string"):
        compile_join([view], {"keyed": SCHEMA}, "spark")


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("date_diff('minute', happened, learned) > 3", "DATE_DIFF"),
        ("delay::INT = 3", "CAST"),
        ("extract(dow FROM happened) = 0", "DAYOFWEEK"),
        ("learned - happened > INTERVAL 1 MONTH", "MONTH"),
        ("word LIKE 'a\\%'", "backslash"),
        ("md5(word) = 'x'", "MD5"),
    ],
)
def test_a_condition_that_spark_may_understand_in_another_way_is_refused(where: str, word: str) -> None:
    view = FeatureView("v", Entity("place"), KEYED, [count(over="1h", hop="5m", where=where)])
    compile_join([view], {"keyed": SCHEMA}, "duckdb")
    with pytest.raises(InvalidError, match=f"(?s){word}.*another way"):
        compile_join([view], {"keyed": SCHEMA}, "spark")


def test_a_condition_that_is_no_sql_is_refused() -> None:
    view = FeatureView("v", Entity("place"), KEYED, [count(over="1h", hop="5m", where="delay > 1) OR (lane >")])
    with pytest.raises(InvalidError, match=r"condition over table 'keyed' cannot be evaluated \(delay > 1\) OR \(lane >\)"):
        compile_join([view], {"keyed": SCHEMA}, "spark")


@pytest.mark.parametrize("engine", ENGINES)
def test_names_are_spelled_so_that_they_stay_names(engine: Engine) -> None:
    """A column named like SQL, with quotes, in both dialects; what is printed parses and names it as it is."""
    name = 'select "x" -- `y'
    schema = pa.schema(
        [(name, pa.float64()), ("id", pa.string()), ("place", pa.string()), *[(c, SCHEMA.field(c).type) for c in ("happened", "learned")]]
    )
    view = FeatureView("v", Entity("place"), KEYED, [latest(name, ttl="1h"), sum_(name, over="1h", hop="5m", name="s")])
    statements = [*compile_source(Scan("keyed", 1, schema, ("/a'b/c.parquet",)), engine), compile_join([view], {"keyed": schema}, engine)]
    named = [{i.name for i in sqlglot.parse_one(s, read=engine).find_all(sqlglot.exp.Identifier)} for s in statements]
    assert [name in found for found in named] == ([True, True] if engine == "duckdb" else [True, False, True, True])


def test_a_type_that_engines_do_not_share_is_refused() -> None:
    schema = pa.schema([("clock", pa.time64("us"))])
    with pytest.raises(InvalidError, match="column 'clock' of table 'keyed' is time64"):
        compile_source(Scan("keyed", 1, schema, ("a.parquet",)), "spark")

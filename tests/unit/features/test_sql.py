"""The compiled query, run by DuckDB as it is printed, against the reference of the contract suites."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.aggregates import count, latest, max_, mean, min_, std, sum_
from tidemill.core.definitions import Entity, FeatureView
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, HOUR_US
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


def differences(view: FeatureView, rows: Rows, spine: Rows, folder: Path, cuts: Sequence[int] = ()) -> list[Any]:
    """Where the query and the reference differ; the number of rows is part of it."""
    made = run(view, scans(folder, {view.table.name: rows}, cuts)[view.table.name], spine_table(spine))
    assert [row["mine"] for row in made] == list(range(len(spine)))
    expected = [reference(view, rows, asked, asked[AT]) for asked in spine]
    found = [{name: row[name] for name in view.columns} for row in made]
    return [(asked, e, f) for asked, e, f in zip(spine, expected, found, strict=True) if not same(e, f)]


@pytest.mark.slow
@pytest.mark.parametrize("view", [v for v in VIEWS if not v.name.endswith("_more")], ids=lambda v: v.name)
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


def test_other_kinds_are_refused() -> None:
    view = FeatureView("v", Entity("place"), KEYED, [std("delay", over="1h", hop="5m")])
    with pytest.raises(InvalidError, match=r"v__delay_std_1h is std\(delay over 1h.*cannot write"):
        compile_join([view], {"keyed": SCHEMA}, "duckdb")


@pytest.mark.parametrize("engine", ENGINES)
def test_names_are_spelled_so_that_they_stay_names(engine: Engine) -> None:
    """A column named like SQL, with quotes, in both dialects; what is printed parses and names it as it is."""
    name = 'select "x" -- `y'
    schema = pa.schema(
        [(name, pa.float64()), ("id", pa.string()), ("place", pa.string()), *[(c, SCHEMA.field(c).type) for c in ("happened", "learned")]]
    )
    view = FeatureView("v", Entity("place"), KEYED, [latest(name, ttl="1h"), sum_(name, over="1h", hop="5m", name="s")])
    statements = [*compile_source(Scan("keyed", 1, schema, ("/a'b/c.parquet",)), engine), compile_join([view], {"keyed": schema}, engine)]
    for statement in statements:
        tree = sqlglot.parse_one(statement, read=engine)
        assert name in {i.name for i in tree.find_all(sqlglot.exp.Identifier)}


def test_a_type_that_engines_do_not_share_is_refused() -> None:
    schema = pa.schema([("clock", pa.time64("us"))])
    with pytest.raises(InvalidError, match="column 'clock' of table 'keyed' is time64"):
        compile_source(Scan("keyed", 1, schema, ("a.parquet",)), "spark")

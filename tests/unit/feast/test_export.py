"""A project as a Feast repository: rows that Feast answers equally from, and text that says so; Feast itself is not needed here."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.feast_repo import same

from tidemill.adapters.feast.exporter import ExportReport, export_repository
from tidemill.adapters.feast.importer import NotKeptError
from tidemill.adapters.feast.points import change_rows, current, is_plain, plain_rows
from tidemill.core.aggregates import count, last, latest, mean
from tidemill.core.definitions import Entity, FeatureView, Table
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError
from tidemill.core.instants import HOUR_US, SECOND_US
from tidemill.features.embedded import DuckOfflineStore
from tidemill.platform.project import load_definitions
from tidemill.versioning.ports import Scan, TableStore

UTC_US = pa.timestamp("us", "UTC")
NOW = 1_700_000_000 * SECOND_US
PLAIN = Table("rides", "files:rides", event_time="happened", known_time="written")
KEYED = Table("rides", "files:rides", event_time="happened", known_time="written", key=("ride", "leg"))


def events(seed: int, n: int = 120) -> pa.Table:
    """Rides of two days, some late, corrected, moved to another courier, or still ahead."""
    rng = np.random.default_rng(seed)
    happened = NOW - rng.integers(-3600, 48 * 3600, n) * SECOND_US
    return pa.table(
        {
            "ride": pa.array(rng.integers(0, n // 3, n)),
            "leg": pa.array(rng.choice(["a", "b"], n)),
            "courier": pa.array(rng.integers(1, 5, n), mask=rng.random(n) < 0.05),
            "happened": pa.array(happened).cast(UTC_US),
            "written": pa.array(happened + rng.integers(-600, 9000, n) * SECOND_US).cast(UTC_US),
            "trips": pa.array(rng.integers(0, 9, n), mask=rng.random(n) < 0.2),
            "home": pa.array(rng.choice(["oslo", "bergen"], n), mask=rng.random(n) < 0.2),
        }
    )


def scan_of(rows: pa.Table, path: Path) -> Scan:
    pq.write_table(rows, path)
    return Scan("rides", 1, rows.schema, (str(path),))


@pytest.mark.parametrize("table", [PLAIN, KEYED], ids=["plain", "keyed"])
@pytest.mark.parametrize("seed", range(6))
def test_between_two_change_rows_nothing_changes(table: Table, seed: int, tmp_path: Path) -> None:
    """The newest change row at any time has the values that the offline store computes for that time."""
    features = [
        count(over="3h", hop="5m"),
        mean("trips", over="4h", hop="2h"),
        last("home", over="2h", hop="30m"),
        latest("home", ttl="5h"),
    ]
    view = FeatureView("shape", Entity("courier"), table, features)
    offline, scan = DuckOfflineStore(), scan_of(events(seed), tmp_path / "rides.parquet")
    changes = change_rows(view, scan, offline, NOW)
    rng = np.random.default_rng(seed)
    at = np.concatenate([rng.integers(NOW - 50 * HOUR_US, NOW, 300), changes["changed"].cast(pa.int64()).to_numpy()[:50]])
    spine = pa.table({"courier": rng.integers(1, 6, len(at)), "at": pa.array(at).cast(UTC_US)})
    expected = offline.join(spine, [view], {"rides": scan}).select(list(view.columns)).to_pylist()
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for row in changes.to_pylist():
        by_key.setdefault(row["courier"], []).append(row)
    for asked, want in zip(spine.to_pylist(), expected, strict=True):
        before = [r for r in by_key.get(asked["courier"], []) if r["changed"] <= asked["at"]]
        got = {view.full_name(a): before[-1][a.name] if before else None for a in view.aggregates}
        if not before:
            want = {n: None if v == 0 else v for n, v in want.items()}
        assert all(same(got[name], want[name]) for name in want), (asked, got, want)


def test_equal_neighbours_are_left_out(tmp_path: Path) -> None:
    at = [NOW - i * HOUR_US for i in (9, 8, 7, 6)]
    rows = pa.table(
        {"courier": [1, 1, 1, 2], "happened": pa.array(at).cast(UTC_US), "written": pa.array(at).cast(UTC_US), "home": ["a", "a", "b", "b"]}
    )
    view = FeatureView(
        "v",
        Entity("courier"),
        PLAIN,
        [latest("home", ttl="100h"), latest("home", ttl="99h")[0].__class__("latest", "home", ttl_us=99 * HOUR_US, name="x")],
    )
    changes = change_rows(view, scan_of(rows, tmp_path / "r.parquet"), DuckOfflineStore(), NOW)
    assert changes["home"].to_pylist() == ["a", "b", "b"]
    assert not is_plain(view)


def test_current_rows_are_known_and_not_replaced(tmp_path: Path) -> None:
    rows = events(3)
    found = current(KEYED, rows, NOW).to_pylist()
    known = [r for r in rows.to_pylist() if int(r["written"].timestamp() * SECOND_US) <= NOW]
    for r in known:
        same = [o for o in known if (o["ride"], o["leg"]) == (r["ride"], r["leg"])]
        newest = max(enumerate(same), key=lambda item: (item[1]["written"], item[0]))[1]
        assert newest in found
    assert len(found) == len({(r["ride"], r["leg"]) for r in known})
    plain = plain_rows(FeatureView("v", Entity("courier"), PLAIN, [latest("home", ttl="1h")]), scan_of(rows, tmp_path / "r.parquet"), NOW)
    assert plain.column_names == ["courier", "happened", "written", "home"]
    assert plain["courier"].null_count == 0


class Tables:
    """What the exporter asks of a table store."""

    def __init__(self, scans: dict[str, Scan]) -> None:
        self.scans = scans

    def scan(self, table: str) -> Scan:
        if table not in self.scans:
            raise NotFoundError(f"no table named {table!r}")
        return self.scans[table]


PROJECT = """
import numpy as np
import tidemill as tm
from tidemill.adapters.feast.functions import whole

LIMIT = 2
courier = tm.Entity("courier")
rides = tm.Table("rides", "files:rides", event_time="happened", known_time="written")
shape = tm.FeatureView("shape", courier, rides, [tm.latest("trips", "home", ttl="20h")], tags=("team=x",), owner='the "ops"')
busy = tm.FeatureView("busy", courier, rides, [tm.count(over="3h", hop="5m")])


def above(x):
    return x > LIMIT


@tm.on_demand
def many(busy__count_3h):
    return above(busy__count_3h)


@tm.on_demand
def risk__hour(shape__trips, written, many):
    return written.astype("M8[h]").astype(int) % 24


@tm.on_demand
def risk__home(shape__home, word):
    return shape__home


{more}
everything = tm.FeatureService("everything", [shape, "busy:count_3h", many, "risk:hour", risk__home], tags=("a=b", "c"))
"""


def export(tmp_path: Path, more: str = "", **options: Any) -> ExportReport:
    project = tmp_path / "nat"
    project.mkdir(exist_ok=True)
    (project / "definitions.py").write_text(PROJECT.replace("{more}", more))
    tables: Any = Tables({"rides": scan_of(events(1), tmp_path / "rides.parquet")})
    store: TableStore = tables
    return export_repository(
        load_definitions(project), project, tmp_path / "out", tables=store, offline=DuckOfflineStore(), now_us=NOW, **options
    )


def test_the_written_repository_is_python_with_everything_in_it(tmp_path: Path) -> None:
    report = export(tmp_path)
    assert set(report.files) == {"definitions.py", "feature_store.yaml", "data/shape.parquet", "data/busy.parquet"}
    text = (tmp_path / "out" / "definitions.py").read_text()
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    assert set(functions) == {"many_on_demand", "risk_on_demand"}
    for words in (
        'FeatureView(\n    name="shape", entities=[courier_entity], ttl=timedelta(seconds=72000), source=shape_source,',
        'name="busy", entities=[courier_entity], ttl=timedelta(seconds=0)',
        'timestamp_field="happened", created_timestamp_column="written"',
        'timestamp_field="changed")',
        'owner="the \\"ops\\"", tags={"team": "x"}',
        'Field(name="many", dtype=Bool)',
        'Field(name="hour", dtype=Int64), Field(name="home", dtype=String)',
        'RequestSource(name="request", schema=[Field(name="written", dtype=UnixTimestamp), Field(name="word", dtype=Float64)])',
        'features=[shape_view, busy_view[["count_3h"]], many_on_demand[["many"]], risk_on_demand[["hour", "home"]]], tags={"a": "b", "c": ""})',
    ):
        assert words in text, words
    assert "LIMIT = 2" in ast.unparse(functions["many_on_demand"]), "a function has all that it needs inside"
    assert any("unknown type" in note and "word" in note for note in report.notes)
    assert report.rows["shape"] == pq.read_table(tmp_path / "out" / "data" / "shape.parquet").num_rows > 0
    with pytest.raises(ConflictError, match="not empty"):
        export(tmp_path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("@tm.on_demand\ndef far(at):\n    return at\n", "reads 'at'"),
        ("@tm.on_demand\ndef far(shape__trips):\n    return whole(shape__trips)\n", "'whole' of Tidemill"),
        ("@tm.on_demand\ndef far(shape__home):\n    return shape__home / 0\n", "tried on a sample"),
        ('other = tm.FeatureView("far", courier, tm.Table("none", "", "a", "b"), [tm.latest("x", ttl="1h")])\n', "'none'"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_written(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(NotKeptError) as caught:
        export(tmp_path, more)
    assert [p.name for p in caught.value.problems] == ["far"]
    assert words in caught.value.problems[0].reason
    assert not (tmp_path / "out").exists()
    assert export(tmp_path, more, skip=["far"]).views == 2


def test_a_service_that_reads_what_is_left_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotKeptError, match="it reads on-demand feature 'risk__home', which is not exported"):
        export(tmp_path, skip=["risk__home"])
    with pytest.raises(NotKeptError, match="'shape__trips', which is not exported"):
        export(tmp_path, skip=["shape"])
    with pytest.raises(NotFoundError, match="'shape'"):
        export(tmp_path, skip=["shap"])
    with pytest.raises(InvalidError, match="nothing to export"):
        export(tmp_path, skip=["shape", "busy"])

"""The demo's streams, on three weeks; and that an inferred schema tells its faults from its weather."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tidemill.core.definitions import Table
from tidemill.core.instants import DAY_US, parse_instant
from tidemill.ingestion.embedded import open_source
from tidemill.validation import check, infer
from tidemill.validation.embedded import SketchProfiler
from tidemill.validation.ports import TableSchema

KNOWN = {
    "schedule": "filed_at",
    "departures": "recorded_at",
    "landings": "recorded_at",
    "weather": "published_at",
    "planes": "registered_at",
}
EVENT = {"schedule": "scheduled_at", "departures": "left_at", "landings": "landed_at", "weather": "observed_at", "planes": "registered_at"}
KEYS = {
    "schedule": ("flight",),
    "departures": ("flight",),
    "landings": ("flight",),
    "weather": ("origin", "observed_at"),
    "planes": ("tailnum",),
}


@pytest.fixture(scope="session")
def maker() -> ModuleType:
    path = Path(__file__).parents[3] / "examples/flights/make_data.py"
    spec = importlib.util.spec_from_file_location("flights_make_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("flights")
    maker.make(target, "2013-03-01", "2013-04-20", faults=True)
    return target


def _day(data: Path, stream: str, name: str) -> pa.Table:
    return pq.read_table(data / stream / f"{name}.parquet")


def _all(data: Path, stream: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((data / stream).glob("????-??-??.parquet"))])


def test_every_time_is_utc_microseconds(data: Path) -> None:
    for stream in KNOWN:
        schema = pq.read_schema(next((data / stream).glob("*.parquet")))
        assert schema.field(KNOWN[stream]).type == schema.field(EVENT[stream]).type == pa.timestamp("us", tz="UTC")


def test_a_days_file_has_what_became_known_on_that_day(data: Path) -> None:
    for stream in ("departures", "landings", "weather"):
        for path in (data / stream).glob("????-??-??.parquet"):
            start = parse_instant(path.stem)
            known = pq.read_table(path)[KNOWN[stream]].cast(pa.int64())
            assert start <= pc.min(known).as_py() <= pc.max(known).as_py() < start + DAY_US


def test_local_times_become_utc_across_the_change_of_clocks(data: Path) -> None:
    rows = {row["flight"]: row for row in _all(data, "schedule").to_pylist()}
    at = {
        key[:10]: row["scheduled_at"].isoformat()
        for key, row in rows.items()
        if key.endswith("-EWR-UA-1545-0515") or "-JFK-AA-1141-0540" in key
    }
    assert at["2013-03-08"] == "2013-03-08T10:40:00+00:00"  # 05:40 in winter
    assert at["2013-03-11"] == "2013-03-11T09:40:00+00:00"  # and in summer


def test_flights_are_known_before_they_leave_and_land_after_it(data: Path) -> None:
    schedule, left, down = (_all(data, stream) for stream in ("schedule", "departures", "landings"))
    assert pc.count_distinct(schedule["flight"]).as_py() == schedule.num_rows
    assert pc.all(pc.less(schedule["filed_at"], schedule["scheduled_at"])).as_py()
    first = _day(data, "schedule", "2013-02-28")  # what was filed before the first day, available as it begins
    assert pc.min(first["scheduled_at"]).as_py().isoformat() >= "2013-03-01"
    both = down.join(left.select(["flight", "left_at"]), "flight", join_type="inner")
    assert both.num_rows == down.num_rows > 40_000
    minutes = pc.divide(pc.subtract(both["landed_at"].cast(pa.int64()), both["left_at"].cast(pa.int64())), 60_000_000)
    assert (pc.min(minutes).as_py() > 20, pc.max(minutes).as_py() < 14 * 60) == (True, True)
    assert pc.all(pc.greater_equal(down["recorded_at"], down["landed_at"])).as_py()


def test_one_landing_in_a_hundred_is_late_and_some_are_corrected(data: Path) -> None:
    down = _all(data, "landings")
    lag = pc.subtract(down["recorded_at"].cast(pa.int64()), down["landed_at"].cast(pa.int64())).to_numpy()
    late, again = ((lag > 0) & (lag < DAY_US)).mean(), (lag >= 2 * DAY_US).mean()
    assert 0.007 < late < 0.013
    assert 0.003 < again < 0.007
    corrected = down.filter(pa.array(lag >= 2 * DAY_US)).join(down.filter(pa.array(lag < DAY_US)), "flight", right_suffix="_first")
    change = pc.abs(pc.subtract(corrected["arr_delay"], corrected["arr_delay_first"]))
    assert 1 <= pc.min(change).as_py() <= pc.max(change).as_py() <= 9


def test_the_same_days_give_the_same_files(maker: ModuleType, data: Path, tmp_path: Path) -> None:
    maker.make(tmp_path, "2013-03-01", "2013-03-03")
    assert _day(tmp_path, "departures", "2013-03-02").equals(_day(data, "departures", "2013-03-02"))
    assert not list(tmp_path.glob("*/*.r1.parquet"))


@pytest.fixture(scope="session")
def schemas(data: Path) -> dict[str, TableSchema]:
    march = {stream: [path for path in (data / stream).glob("*.parquet") if path.name < "2013-04-01"] for stream in KNOWN}
    return {
        stream: infer(stream, pa.concat_tables([pq.read_table(p) for p in sorted(march[stream])]), unique=KEYS[stream]) for stream in KNOWN
    }


def test_april_passes_the_schema_of_march_but_for_the_fault(data: Path, schemas: dict[str, TableSchema]) -> None:
    broken = {}
    for stream, rules in schemas.items():
        table = Table(stream, f"files:{stream}", event_time=EVENT[stream], known_time=KNOWN[stream], key=KEYS[stream])
        for batch in open_source(table.source, data, table).read(after=None, until_us=parse_instant("2014-01-01")):
            if anomalies := check(batch.rows, rules, SketchProfiler()).anomalies:
                broken[batch.origin] = {(stream, anomaly.column) for anomaly in anomalies}
    assert broken == {"2013-04-17.parquet": {("departures", "dep_delay")}}


@pytest.mark.parametrize(
    ("stream", "kind", "column", "rule"),
    [
        ("departures", "seconds", "dep_delay", "range"),
        ("landings", "seconds", "arr_delay", "range"),
        ("landings", "null_tails", "tailnum", "null_fraction"),
        ("weather", "renamed", "wind_speed", "missing_column"),
    ],
)
def test_each_fault_is_named(
    maker: ModuleType, data: Path, schemas: dict[str, TableSchema], stream: str, kind: str, column: str, rule: str
) -> None:
    rows = _day(data, stream, "2013-04-12")
    assert check(rows, schemas[stream], SketchProfiler()).passed
    anomaly = check(maker.spoil(rows, kind), schemas[stream], SketchProfiler()).anomalies[0]
    assert (anomaly.column, anomaly.rule) == (column, rule)
    assert anomaly.expected
    assert anomaly.observed


def test_a_fault_is_put_right_by_the_next_days_file(data: Path) -> None:
    wrong, right = _day(data, "departures", "2013-04-17"), _day(data, "departures", "2013-04-18.r1")
    assert wrong["flight"].equals(right["flight"])
    assert pc.all(pc.equal(wrong["dep_delay"], pc.multiply(right["dep_delay"], 60.0))).as_py()

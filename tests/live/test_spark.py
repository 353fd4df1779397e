"""A real Spark against the embedded engine: the printed script, conditions, column types, snapshots of Iceberg tables."""

import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.spark_session import URL, spark_store

from tidemill.core.aggregates import count, distinct, expression, first, last, latest, mean, min_, quantile, std, sum_, top_k
from tidemill.core.definitions import Entity, FeatureView, Table
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.instants import DAY_US
from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import AT
from tidemill.features.sql.compile import script
from tidemill.platform.doctor import Check, examine
from tidemill.platform.root import Platform
from tidemill.testing.features import spine_table
from tidemill.testing.reference import KEYED, MINUTE, UTC_US, arrow, reference, same
from tidemill.versioning.ports import Scan

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.xdist_group("spark")]
PLACE = Entity("place")


def history(seed: int, rows: int) -> list[dict[str, Any]]:
    """Late, corrected and repeated rows."""
    draw = random.Random(seed)

    def row() -> dict[str, Any]:
        happened = draw.randrange(20 * MINUTE)
        delay = draw.choice([None, 0.0, draw.uniform(-9, 9), float(draw.randrange(-9, 9)), math.nan, math.inf])
        return {
            "id": str(draw.randrange(rows // 2)),
            "place": draw.choice(["a", "b", None]),
            "lane": draw.choice([1, 2, None]),
            "happened": happened,
            "learned": happened + draw.choice([0, draw.randrange(4 * MINUTE)]),
            "delay": delay,
            "word": draw.choice(["u", "v", "Ü_", None]),
        }

    made = [row() for _ in range(rows)]
    return made + made[: rows // 10]


def questions(seed: int, rows: int) -> pa.Table:
    draw = random.Random(seed)
    return spine_table(
        [{"place": draw.choice(["a", "b", "c", None]), "lane": draw.choice([1, 2]), AT: draw.randrange(24 * MINUTE)} for _ in range(rows)]
    )


def differences(view: FeatureView, scan: Scan, spine: pa.Table) -> list[Any]:
    """Where Spark and the embedded engine differ, in value or type."""
    one, other = (store.join(spine, [view], {view.table.name: scan}) for store in (spark_store(), DuckOfflineStore()))
    types = [(n, *(str(t.schema.field(n).type).replace("Etc/", "").replace("<l:", "<item:") for t in (one, other))) for n in view.columns]
    pairs = zip(one.select(view.columns).to_pylist(), other.select(view.columns).to_pylist(), strict=True)
    return [t for t in types if t[1] != t[2]] + [(i, a, b) for i, (a, b) in enumerate(pairs) if not same(a, b)]


def test_the_printed_script_runs_as_it_is(tmp_path: Path) -> None:
    """From files whose names need escaping, cut so that ties need their order, and one of them without a column."""
    rows = [r if r["delay"] is None or math.isfinite(r["delay"]) else r | {"delay": None} for r in history(1, 60)]
    folder = tmp_path / "a b,{c}'é+%"
    folder.mkdir()
    for row in rows[25:]:
        row["word"] = None
    paths = [str(folder / f"{name} .parquet") for name in ("z", "a+b", "m")]
    for path, part in zip(paths, (rows[:25], rows[25:40], rows[40:]), strict=True):
        table = arrow(part)
        pq.write_table(table if path != paths[1] else table.drop_columns(["word"]), path)
    features = [
        mean("delay", over="6m", hop="2m"), std("delay", over="9m", hop="3m"), quantile("delay", 0.9, over="9m", hop="3m"), latest("lane", ttl="5m", where="word = 'v' OR delay < 0"),
        distinct("word", over="9m", hop="3m"), top_k("word", 2, over="9m", hop="3m"), count(over="6m", hop="2m", where="delay > 0 AND happened >= learned", name="quick"), expression("e", "quick / delay_mean_6m"),
    ]  # fmt: skip
    view = FeatureView("printed", PLACE, KEYED, features)
    spine = questions(2, 20)
    store = spark_store()
    session = store.session()
    session.conf.set("spark.sql.session.timeZone", "Asia/Kathmandu")
    session.createDataFrame(spine).createOrReplaceTempView("spine")
    statements = script(view, Scan("keyed", 1, arrow([]).schema, tuple(paths)), "spark").rstrip().removesuffix(";").split(";\n\n")
    made = [session.sql(statement) for statement in statements][-1].toArrow().sort_by("mine").to_pylist()
    assert len(made) == spine.num_rows
    for row in made:
        at = round(row[AT].timestamp() * 1e6)
        expected = reference(view, rows, row, at)
        assert same(expected, {name: row[name] for name in view.columns}), (row, expected)


CONDITIONS = [
    "delay / lane > 0.5", "delay / 0 > 1", "lane / (lane - 1) > 1", "0 / (lane - 1) = 0", "lane / 2 / 2 < 0.4", "happened >= TIMESTAMP '1970-01-01 00:05:00'",
    "learned - happened > INTERVAL 2 MINUTE", "learned - INTERVAL '1' HOUR < happened", "extract(minute FROM happened) % 1 = 0 OR extract(minute FROM happened) = 3",
    "hour(happened) = 0", "happened::DATE = DATE '1970-01-01'", "word LIKE 'u%'", "word ILIKE '_\\_'", "word IN ('u', 'v')", "word NOT IN ('u')", "coalesce(delay, 0) = 0",
    "CASE WHEN lane = 1 THEN delay > 0 ELSE word = 'u' END", "delay BETWEEN -5 AND 5", "NOT (word = 'u')", "word IS DISTINCT FROM 'u'", "delay::BOOLEAN", "lane * 0.1 > 0.15",
    "nullif(lane, 1) = 2", "abs(delay) > 3", "lower(word) = 'ü_'", "delay > 5", "delay = 'NaN'::DOUBLE", "delay - delay = 0", "-delay < lane", "place || word = 'au'", "if(lane = 1, delay, 1) > 0",
]  # fmt: skip


def test_conditions_mean_the_same(tmp_path: Path) -> None:
    """Each that is not refused counts the same rows in both engines, whatever the zone of Spark's machine."""
    usable, refused = [], []
    for where in CONDITIONS:
        try:
            script(
                FeatureView("v", PLACE, KEYED, [count(over="6m", hop="2m", where=where)]),
                Scan("keyed", None, arrow([]).schema, ()),
                "spark",
            )
            usable.append(where)
        except InvalidError:
            refused.append(where)
    assert refused == [c for c in CONDITIONS if "%" in c.replace("u%", "") or "\\" in c or "||" in c]
    path = tmp_path / "rows.parquet"
    pq.write_table(arrow(history(3, 300)), path)
    view = FeatureView("v", PLACE, KEYED, [count(over="20m", hop="1m", where=where, name=f"c{i}") for i, where in enumerate(usable)])
    scan, spine = Scan("keyed", 1, arrow([]).schema, (str(path),)), questions(4, 40)
    found = differences(view, scan, spine)
    wrong = {usable[int(n[4:])] for d in found if len(d) == 3 and isinstance(d[1], dict) for n in d[1] if d[1][n] != d[2][n]}
    assert (found, wrong) == ([], set())


def test_a_condition_over_what_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(arrow(history(3, 10)), path)
    view = FeatureView("v", PLACE, KEYED, [count(over="20m", hop="1m", where="nothing > 1")])
    for store in (spark_store(), DuckOfflineStore()):
        with pytest.raises(InvalidError, match="nothing"):
            store.join(questions(4, 3), [view], {"keyed": Scan("keyed", 1, arrow([]).schema, (str(path),))})


def test_files_that_spark_does_not_see_are_told_of(tmp_path: Path) -> None:
    view = FeatureView("v", PLACE, KEYED, [count(over="20m", hop="1m")])
    gone = Scan("keyed", 1, arrow([]).schema, (str(tmp_path / "gone.parquet"),))
    with pytest.raises(UnavailableError, match=r"does not find the rows that v .*gone.parquet.*under one path"):
        spark_store().join(questions(4, 3), [view], {"keyed": gone})
    (tmp_path / "gone.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UnavailableError, match=r"gone.parquet"):
        spark_store().join(questions(4, 3), [view], {"keyed": gone})


def test_a_value_that_a_condition_cannot_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(arrow(history(3, 10)), path)
    view = FeatureView("v", PLACE, KEYED, [count(over="20m", hop="1m", where="word::DOUBLE > 1")])
    for store in (spark_store(), DuckOfflineStore()):
        with pytest.raises(InvalidError, match=r"(?i)cast|convert"):
            store.join(questions(4, 3), [view], {"keyed": Scan("keyed", 1, arrow([]).schema, (str(path),))})


def test_an_application_that_is_there_is_used_and_left_as_it_is(tmp_path: Path) -> None:
    """From another thread as well, where it is not the active one."""
    spark_store()
    from pyspark.sql import SparkSession

    from tidemill.adapters.spark.features import open_offline

    mine = SparkSession.builder.getOrCreate()
    mine.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    other = open_offline("spark:local[1]")
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(other.describe).result().endswith(URL.removeprefix("spark:").partition("?")[0])
            pool.submit(other.close).result()
        assert (mine.conf.get("spark.sql.session.timeZone"), mine.sql("SELECT 1 AS one").collect()[0].one) == ("Asia/Tokyo", 1)
    finally:
        mine.conf.set("spark.sql.session.timeZone", "UTC")


def test_joins_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    view = FeatureView("v", PLACE, KEYED, [sum_("delay", over="20m", hop="1m")])
    found = []
    for i in range(3):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(arrow([history(3, 10)[0] | {"place": "a", "happened": 1, "learned": 1, "delay": float(i)}]), path)
        found.append({"keyed": Scan("keyed", 1, arrow([]).schema, (str(path),))})
    spine = spine_table([{"place": "a", "lane": 1, AT: MINUTE}])
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda scans: spark_store().join(spine, [view], scans)["v__delay_sum_20m"].to_pylist(), found))
    assert made == [[0.0], [1.0], [2.0]]


def test_columns_of_every_type(tmp_path: Path) -> None:
    draw = random.Random(5)
    when = [draw.randrange(20 * MINUTE) for _ in range(80)]
    columns = {
        "place": pa.array([draw.choice([1, 2]) for _ in when], pa.int32()),
        "happened": pa.array(when, pa.int64()).cast(UTC_US),
        "learned": pa.array([w + draw.randrange(MINUTE) for w in when], pa.int64()).cast(UTC_US),
        "small": pa.array([draw.choice([None, 1, -7]) for _ in when], pa.int32()),
        "single": pa.array([draw.choice([None, 0.1, -2.5, math.nan]) for _ in when], pa.float32()),
        "yes": pa.array([draw.choice([None, True, False]) for _ in when]),
        "price": pa.array([draw.choice([None, "1.10", "-2.25"]) for _ in when], pa.string()).cast(pa.decimal128(9, 2)),
        "day": pa.array([draw.choice([None, 3, 4]) for _ in when], pa.int32()).cast(pa.date32()),
        "plain": pa.array(when, pa.int64()).cast(pa.timestamp("us")),
        "zoned": pa.array(when, pa.int64()).cast(UTC_US),
        "bytes": pa.array([draw.choice([None, b"\0a", b""]) for _ in when], pa.binary()),
        "many": pa.array([draw.choice([None, [1, 2], []]) for _ in when], pa.list_(pa.int64())),
        "both": pa.array([{"a": i, "b": None} for i in range(80)], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    }
    path = tmp_path / "types.parquet"
    pq.write_table(pa.table(columns), path)
    table = Table("types", "files:t", "happened", "learned")
    others = [n for n in columns if n not in ("place", "happened", "learned")]
    numbers = ("small", "single", "yes", "price")
    features = [
        latest(*others, ttl="9m"), *(last(n, over="6m", hop="2m") for n in others), *(first(n, over="6m", hop="2m") for n in others), *(count(n, over="6m", hop="2m") for n in others),
        *(f(n, over="9m", hop="3m") for f in (sum_, mean, min_, std) for n in numbers), *(quantile(n, 0.5, over="9m", hop="3m") for n in numbers),
        *(distinct(n, over="9m", hop="3m") for n in ("small", "yes")), *(f for n in ("small", "yes") for f in top_k(n, 3, over="9m", hop="3m")),
    ]  # fmt: skip
    view = FeatureView("v", PLACE, table, features)
    asked = {"place": pa.array([1, 2, 3, None] * 6, pa.int64()), AT: pa.array([i * MINUTE for i in range(24)], pa.int64()).cast(UTC_US)}
    assert differences(view, Scan("types", 1, pa.table(columns).schema, (str(path),)), pa.table(asked)) == []


DEFINITIONS = """
import tidemill as tm

kitchen = tm.Entity("kitchen")
orders = tm.Table("orders", "", event_time="placed", known_time="seen", key="order")
recent = tm.FeatureView("recent", kitchen, orders, [
    tm.mean("minutes", over="6h", hop="1h"), tm.count(over="1d", hop="1h"), tm.std("minutes", over="1d", hop="1h"), tm.latest("minutes", ttl="2d"),
])
"""


def orders(rows: Sequence[tuple[str, str, int, int, float]], **more: Any) -> pa.Table:
    order, kitchen, placed, seen, minutes = zip(*rows, strict=True)
    times = {"placed": pa.array(placed, pa.int64()).cast(UTC_US), "seen": pa.array(seen, pa.int64()).cast(UTC_US)}
    return pa.table({"order": list(order), "kitchen": list(kitchen), **times, "minutes": list(minutes)} | more)


def test_training_sets_at_snapshots_of_a_project(tmp_path: Path) -> None:
    """A project with `stack.offline: spark:…`: at an older snapshot and at the newest, after a correction, a backfill, a new column and compaction."""
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    spark_store()
    platform = Platform.open(tmp_path, [f"stack.offline='{URL}'"])
    draw = random.Random(6)
    hour = DAY_US // 24
    rows = [(f"o{i}", draw.choice("ab"), i * hour // 2, i * hour // 2 + draw.randrange(3 * hour), draw.uniform(5, 50)) for i in range(100)]
    first_batch = orders(rows)
    platform.tables.create("orders", first_batch.schema)
    platform.tables.append("orders", first_batch, batch="1", branch="main")
    before = platform.tables.snapshots("orders")[0].id
    late = [(o, k, placed, 60 * hour, minutes + 1) for o, k, placed, _, minutes in rows[::7]] + [("old", "a", 9 * hour, 9 * hour, 99.0)]
    second = orders(late, tip=pa.array([1.0] * len(late)))
    platform.tables.create("orders", second.schema)
    platform.tables.append("orders", second, batch="2", branch="main")
    at = pa.array([draw.randrange(60 * hour) for _ in range(30)], pa.int64()).cast(UTC_US)
    spine = pa.table({"kitchen": [draw.choice("abc") for _ in range(30)], AT: at, "mine": list(range(30))})
    view, made = platform.definitions.views["recent"], {}
    for name, snapshot in (("before", before), ("after", None)):
        scan = platform.tables.scan("orders", snapshot)
        assert differences(view, scan, spine) == []
        made[name] = platform.offline.join(spine, [view], {"orders": scan})
    assert made["before"] != made["after"]
    platform.tables.maintain("orders", now_us=platform.clock.now_us() + 1, keep_us=10**15)
    again = platform.offline.join(spine, [view], {"orders": platform.tables.scan("orders")})
    assert again == made["after"]
    platform.close()
    assert Check("offline", "ok", spark_store().describe()) in examine(tmp_path, [f"stack.offline='{URL}'"])

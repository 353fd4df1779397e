"""Conditions of features: what they see, what they leave out, and how they fail."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.aggregates import count, distinct, expression, latest, quantile, sum_, top_k
from tidemill.core.definitions import Entity, FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant
from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.sketches import KEPT
from tidemill.versioning.ports import Scan

PAID = Table("paid", "", "happened", "learned")
SHOP = Entity("shop")
NOON = parse_instant("2026-01-01T12:00:00Z")
HOUR = 3_600_000_000


def written(folder: Path, happened: list[int], **columns: list[object]) -> Scan:
    moments = pa.array(happened, pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = pa.table({"shop": ["a"] * len(happened), "happened": moments, "learned": moments, **columns})
    pq.write_table(table, folder / "paid.parquet")
    return Scan("paid", 1, table.schema, (str(folder / "paid.parquet"),))


def spine(*at: int) -> pa.Table:
    return pa.table({"shop": ["a"] * len(at), "at": pa.array(at, pa.int64()).cast(pa.timestamp("us", "UTC"))})


def test_times_in_a_condition_are_plain_utc(tmp_path: Path) -> None:
    scan = written(tmp_path, [NOON - HOUR, NOON], amount=[1.0, 2.0])
    view = FeatureView("v", SHOP, PAID, [sum_("amount", over="1d", hop="1h", where="hour(happened) = 12 AND happened < '2026-01-02'")])
    assert DuckOfflineStore().join(spine(NOON), [view], {"paid": scan})["v__amount_sum_1d"].to_pylist() == [2.0]


def test_a_hop_that_does_not_divide_its_window_is_refused_with_both() -> None:
    with pytest.raises(InvalidError, match="hop 7m does not divide the window 1h"):
        sum_("amount", over="1h", hop="7m")
    with pytest.raises(InvalidError, match="hop 1h does not divide the window 90m"):
        sum_("amount", over=("2h", "90m"), hop="1h")


def test_a_condition_that_cannot_be_evaluated_names_itself(tmp_path: Path) -> None:
    scan = written(tmp_path, [NOON], amount=[1.0])
    for where in ("nobody = 1", "amount >", "amount = 'x'"):
        view = FeatureView("v", SHOP, PAID, [count(over="1d", hop="1h", where=where)])
        with pytest.raises(InvalidError, match=f"condition over table 'paid' cannot be evaluated .*{where}"):
            DuckOfflineStore().join(spine(NOON), [view], {"paid": scan})


def test_explain_says_what_a_condition_left_out(tmp_path: Path) -> None:
    scan = written(tmp_path, [NOON - 2, NOON - 1, NOON], amount=[1.0, 5.0, 2.0])
    view = FeatureView("v", SHOP, PAID, [latest("amount", ttl="1d", where="amount > 1.5"), count(over="1h", hop="5m", where="amount > 4")])
    shown = DuckOfflineStore().explain({"shop": "a", "at": NOON}, view, scan)
    assert [(r.values["amount"], r.use) for r in sorted(shown, key=lambda r: r.event_us)] == [
        (1.0, "filtered"),
        (5.0, "used"),
        (2.0, "used"),
    ]
    assert set(shown[0].values) == {"shop", "happened", "learned", "amount"}


def test_columns_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    scan = written(tmp_path, [NOON], amount=[1.0], moment=[datetime(2026, 1, 1)])  # noqa: DTZ001
    for feature in (distinct("amount", over="1h", hop="5m"), top_k("moment", 1, over="1h", hop="5m")):
        with pytest.raises(InvalidError, match="counts texts, integers or booleans"):
            DuckOfflineStore().join(spine(NOON), [FeatureView("v", SHOP, PAID, [feature])], {"paid": scan})
    worded = written(tmp_path, [NOON], amount=["x"])
    view = FeatureView("v", SHOP, PAID, [latest("amount", ttl="1d"), expression("twice", "amount * 2")])
    with pytest.raises(InvalidError, match="is string; use an on-demand feature"):
        DuckOfflineStore().join(spine(NOON), [view], {"paid": worded})


def test_many_different_values_are_estimated(tmp_path: Path) -> None:
    n = 50_000
    scan = written(tmp_path, [NOON + i for i in range(n)], amount=[float(i) for i in range(n)], who=[i % 20_000 for i in range(n)])
    view = FeatureView(
        "v",
        SHOP,
        PAID,
        [distinct("who", over="1h", hop="5m"), quantile("amount", 0.9, over="1h", hop="5m"), top_k("who", 2, over="1h", hop="5m")],
    )
    found = DuckOfflineStore().join(spine(NOON + KEPT - 2, NOON + n), [view], {"paid": scan}).to_pylist()
    assert found[0]["v__who_distinct_1h"] == KEPT - 1
    assert found[1]["v__who_distinct_1h"] == pytest.approx(20_000, rel=0.1)
    assert found[1]["v__amount_p90_1h"] == pytest.approx(0.9 * n, rel=0.004)
    assert (found[1]["v__who_top1_1h"], found[1]["v__who_top2_1h"]) == (0, 1)

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.support.serving_kit import COLUMNS, FULL, LATE, LOOKUP, WEATHER, Sky, Stack

from tidemill.core.aggregates import latest
from tidemill.core.definitions import Definitions, Entity, FeatureView, Service, on_demand
from tidemill.core.errors import InvalidError
from tidemill.features import apply_on_demand
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.serving import DegradedReader, compile_plan
from tidemill.serving.plan import as_array, plain
from tidemill.serving.protocol import metadata
from tidemill.serving.protocols.reading import of_csv


@pytest.fixture
def sky() -> Sky:
    return Sky()


def test_a_request_with_keys_is_looked_up_and_computed(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    assert plan.columns == COLUMNS
    assert plan.inputs([LOOKUP], [5]) == [(3.0, "cloudy", "UA", 17.0, 6.0)]
    assert sky.asked == [(1, 5)]


def test_a_request_with_all_inputs_is_taken_as_it_is(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    assert plan.inputs([FULL | {"hour": 3, "gust": float("nan")}], [5]) == [(3.0, "cloudy", "UA", 3.0, None)]
    assert sky.asked == []


def test_one_look_up_a_distinct_time_and_answers_stay_in_order(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    requests: list[dict[str, Any]] = [LOOKUP, FULL, LOOKUP | {"origin": "LGA"}, LOOKUP | {"factor": 3}]
    rows = plan.inputs(requests, [5, 5, 6, 5])
    assert sky.asked == [(2, 5), (1, 6)]
    assert [row[4] for row in rows] == [6.0, 6.0, None, 9.0]
    assert rows[2][:2] == (None, None)


def test_what_is_missing_is_named(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    request = {k: v for k, v in LOOKUP.items() if k not in ("origin", "factor")}
    with pytest.raises(InvalidError, match="'origin', 'factor'"):
        plan.inputs([LOOKUP, request], [5, 5])


def test_a_null_key_or_column_is_a_value(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    assert plan.inputs([LOOKUP | {"carrier": None, "factor": None}], [5]) == [(3.0, "cloudy", None, 17.0, None)]


@pytest.mark.parametrize(
    "moment",
    [
        "2013-01-01T17:30:00Z",
        "2013-01-01T12:30:00-05:00",
        datetime(2013, 1, 1, 17, 30, tzinfo=UTC),
        1_357_061_400_000_000,
        np.datetime64("2013-01-01T17:30"),
    ],
)
def test_times_may_be_texts_datetimes_or_microseconds(sky: Sky, moment: Any) -> None:
    assert compile_plan(LATE, sky, apply_on_demand).inputs([LOOKUP | {"scheduled_at": moment}], [5])[0][3] == 17.0


def test_a_time_that_is_none_is_refused_by_name(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, apply_on_demand)
    for wrong in ("tomorrow", 1.5, True):
        with pytest.raises(InvalidError, match=r"scheduled_at|tomorrow"):
            plan.inputs([LOOKUP | {"scheduled_at": wrong}], [5])


def test_a_value_that_no_model_takes_names_its_column(sky: Sky) -> None:
    with pytest.raises(InvalidError, match="'carrier' is list"):
        compile_plan(LATE, sky, apply_on_demand).inputs([LOOKUP | {"carrier": ["UA"]}], [5])


def test_on_demand_features_need_their_function(sky: Sky) -> None:
    with pytest.raises(InvalidError, match="hour, gust"):
        compile_plan(LATE, sky)


def test_a_function_that_loses_rows_is_caught(sky: Sky) -> None:
    plan = compile_plan(LATE, sky, lambda _service, columns: {"hour": np.zeros(1), "gust": np.zeros(1)})
    with pytest.raises(InvalidError, match="'hour' returned 1 values for 2 rows"):
        plan.inputs([LOOKUP, LOOKUP], [5, 5])


def test_what_is_kept_of_a_request(tmp_path: Path) -> None:
    plan = Stack(tmp_path).plan()
    assert plan.kept(LOOKUP) == LOOKUP
    assert plan.kept(FULL | {"origin": "JFK"}) == {"origin": "JFK"}


def test_arrays_have_the_kind_their_values_have() -> None:
    assert as_array("c", [1, True, 2.5]).tolist() == [1.0, 1.0, 2.5]
    assert np.isnan(as_array("c", [1, None])[1])
    assert np.isnan(as_array("c", [None])[0])
    assert as_array("c", [None], text=True).tolist() == [None]
    assert as_array("c", ["a", None]).tolist() == ["a", None]
    assert np.isnat(as_array("c", [None], time=True)[0])
    with pytest.raises(InvalidError, match="'c' mixes"):
        as_array("c", [1.0, "x"])


def test_a_column_of_texts_stays_one_when_a_request_has_null(sky: Sky) -> None:
    kinds = []

    def remember(_service: Service, columns: dict[str, Any]) -> dict[str, Any]:
        kinds.append(columns["carrier"].dtype)
        return {"known": columns["carrier"] != None}  # noqa: E711

    @on_demand
    def known(carrier: Any) -> Any:
        return carrier

    plan = compile_plan(replace(LATE, features=[known]), sky, remember)
    assert plan.inputs([{"carrier": "UA"}, {"carrier": None}], [1, 1]) == [(1.0,), (0.0,)]
    assert plan.inputs([{"carrier": None}], [1]) == [(0.0,)]
    assert kinds == [object, object]


def test_plain_values() -> None:
    assert [plain("c", v) for v in (1, True, np.float32(0.5), np.int64(3), float("nan"), None, "x", np.str_("y"))] == [
        1.0,
        1.0,
        0.5,
        3.0,
        None,
        None,
        "x",
        "y",
    ]


def test_a_text_that_a_function_refused_is_not_remembered_as_its_kind() -> None:
    sky = Sky()
    plan = compile_plan(LATE, sky, apply_on_demand)
    with pytest.raises(InvalidError, match="gust"):
        plan.inputs([LOOKUP | {"factor": "two"}], [5])
    assert plan.inputs([LOOKUP | {"factor": None}], [5])[0][4] is None


def test_keys_that_are_numbers_in_the_rows_are_numbers_in_requests_once_somebody_can_tell(tmp_path: Path) -> None:
    tower = FeatureView("tower", (Entity("origin"), Entity("runway")), WEATHER, [latest("wind", ttl="6h")])
    service, definitions = replace(LATE, features=[tower, "carrier"]), Definitions(views={"tower": tower})
    processor = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), definitions)
    plan = compile_plan(service, DegradedReader(service, OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), definitions)))

    def told() -> dict[str, str]:
        return {i["name"]: i["datatype"] for i in metadata(plan, [1], frozenset({"carrier"}), "")["inputs"]}

    assert told() == {"tower__wind": "FP64", "carrier": "BYTES", "origin": "BYTES", "runway": "BYTES"}
    at = pa.array([1_000_000], pa.int64()).cast(pa.timestamp("us", "UTC"))
    processor.push("weather", pa.table({"origin": ["JFK"], "runway": [4], "wind": [3.0], "observed_at": at, "published_at": at}))
    processor.commit()
    assert told() == {"tower__wind": "FP64", "carrier": "BYTES", "origin": "BYTES", "runway": "INT64"}
    call = of_csv(plan, "origin,runway,carrier\nJFK,4,UA\n", "a", 10, plan.texts, header=True)
    assert plan.inputs(call.requests, [2_000_000]) == [(3.0, "UA")]

"""Feast's feature server protocol, answered in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.feast_kit import NOW, FeastKit, read

from tidemill.core.instants import HOUR_US, SECOND_US, format_instant
from tidemill.serving.admission import TIMEOUT_HEADER
from tidemill.serving.http import Settings

NEVER = "1970-01-01T00:00:00Z"


@pytest.fixture
def kit(tmp_path: Path) -> FeastKit:
    return FeastKit(tmp_path)


def error(kit: FeastKit, body: Any, path: str = "/get-online-features", status: int = 400) -> str:
    reply = kit.ask(path, body)
    assert reply.status == status, reply.answer
    answer = reply.json()
    return str(json.loads(answer)["message"] if isinstance(answer, str) else answer["error"])


def test_the_answer_has_feasts_shape(kit: FeastKit) -> None:
    body = {"features": ["shape:trips", "sky:rain"], "entities": {"courier": [1, 9], "town": ["oslo", "rome"], "km": [1.0, 2.0]}}
    assert kit.ask("/get-online-features", body).json() == {
        "metadata": {"feature_names": ["courier", "town", "trips", "rain"]},
        "results": [
            {"values": [1, 9], "statuses": ["PRESENT"] * 2, "event_timestamps": [NEVER] * 2},
            {"values": ["oslo", "rome"], "statuses": ["PRESENT"] * 2, "event_timestamps": [NEVER] * 2},
            {
                "values": [15, None],
                "statuses": ["PRESENT", "NOT_FOUND"],
                "event_timestamps": [format_instant(NOW - HOUR_US // 2), NEVER],
            },
            {
                "values": [7.25, None],
                "statuses": ["PRESENT", "NOT_FOUND"],
                "event_timestamps": [format_instant(NOW - 9000 * HOUR_US), NEVER],
            },
        ],
    }


def test_the_four_statuses(kit: FeastKit) -> None:
    got = kit.features("shape:trips", "shape:rating", "shape:busy", courier=[1, 2, 3, 4, None])
    assert [v[:2] for v in got["trips"]] == [
        (15, "PRESENT"), (None, "OUTSIDE_MAX_AGE"), (None, "NULL_VALUE"), (None, "NOT_FOUND"), (None, "NOT_FOUND"),
    ]  # fmt: skip
    assert [v[0] for v in got["rating"]] == [4.5, None, 2.0, None, None]
    assert [v[:2] for v in got["busy"]] == [(1, "PRESENT"), (0, "PRESENT"), (1, "PRESENT"), (0, "NOT_FOUND"), (0, "NOT_FOUND")]


def test_one_row_and_many_rows_answer_the_same(kit: FeastKit) -> None:
    names, couriers = ["shape:trips", "shape:rating", "shape:home", "shape:since", "shape:busy"], [1, 2, 3, 4, None]
    together = kit.features(*names, courier=couriers)
    for i, courier in enumerate(couriers):
        assert kit.features(*names, courier=[courier]) == {name: [values[i]] for name, values in together.items()}
    assert together["since"][0][0] == (NOW - 5 * SECOND_US) // SECOND_US, "a time is whole seconds, as Feast's UNIX_TIMESTAMP"


def test_services_and_full_names(kit: FeastKit) -> None:
    entities = {"courier": [1], "town": ["oslo"], "km": [2.0]}
    got = read(kit.ask("/get-online-features", {"feature_service": "dispatch", "entities": entities}))
    assert {n: v[0][:2] for n, v in got.items()} == {
        "courier": (1, "PRESENT"), "town": ("oslo", "PRESENT"), "rating": (4.5, "PRESENT"), "rain": (7.25, "PRESENT"), "wet": (14.5, "PRESENT"),
    }  # fmt: skip
    full = read(kit.ask("/get-online-features", {"feature_service": "dispatch", "entities": entities, "full_feature_names": True}))
    assert list(full) == ["courier", "town", "shape__rating", "sky__rain", "risk__wet"]


def test_on_demand_features_bring_what_they_read(kit: FeastKit) -> None:
    got = kit.features("risk:wet", "per_km", courier=[1, 9], town=["oslo", "rome"], km=[2.0, 2.0])
    assert [v[:2] for v in got["wet"]] == [(14.5, "PRESENT"), (None, "NULL_VALUE")]
    assert [v[:2] for v in got["per_km"]] == [(2.25, "PRESENT"), (None, "NULL_VALUE")]
    assert "'km'" in error(kit, {"features": ["per_km:per_km"], "entities": {"courier": [1]}})


def test_entity_keys_are_checked_and_made_what_the_table_has(kit: FeastKit) -> None:
    assert kit.features("shape:trips", courier=["1", 1.0])["trips"] == kit.features("shape:trips", courier=[1, 1])["trips"]
    told = error(kit, {"features": ["shape:trips"], "entities": {"courier": [1, "x"]}})
    assert all(word in told for word in ("'courier'", "int64", "row 1", "a text", "'x'"))
    assert "string" in error(kit, {"features": ["sky:rain"], "entities": {"town": [1]}})
    assert "a list" in error(kit, {"features": ["sky:rain"], "entities": {"town": [["oslo"]]}})


def test_requests_that_meet_are_looked_up_together_and_fail_alone(kit: FeastKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers as one after the other, from one read of the store for all that ask for the same."""

    def asked(courier: Any, km: float, *features: str) -> dict[str, Any]:
        return {"features": [*features], "entities": {"courier": [courier], "km": [km]}}

    bodies = [asked(i % 5, i, "shape:rating", "per_km") for i in range(1, 9)]
    others = [asked(1, 1.0, "shape:trips"), asked("x", 1.0, "shape:trips"), asked(2, 1.0, "shape:trips")]
    alone = [kit.ask("/get-online-features", body).answer for body in bodies + others]
    reads: list[int] = []
    read_store = kit.online.read_grids

    def counted(grids: Any) -> Any:
        reads.append(len(grids))
        return read_store(grids)

    monkeypatch.setattr(kit.online, "read_grids", counted)
    assert [r.answer for r in kit.ask_at_once("/get-online-features", *bodies, *others)] == alone
    assert len(reads) == 2
    bad = asked(1, -1.0, "shape:rating", "per_km")
    replies = kit.ask_at_once("/get-online-features", bodies[0], bad, bodies[1])
    assert [r.status for r in replies] == [200, 400, 200]
    assert [replies[0].answer, replies[2].answer] == alone[:2]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{bad", 400, "not JSON"),
        (b"\xff{}", 400, "not "),
        (b'{"entities": {"a": ' + b"[" * 100_000, 400, "nested"),
        ({}, 400, "entities"),
        ({"entities": {"courier": 1}}, 400, "protocol"),
        ({"entities": {"courier": [1]}}, 400, "feature_service"),
        ({"entities": {"courier": [1]}, "features": ["shape:trips"], "feature_service": "dispatch"}, 400, "either"),
        ({"entities": {"courier": []}, "features": ["shape:trips"]}, 400, "at least one"),
        ({"entities": {"cou": [1]}, "features": ["shape:trips"]}, 400, "'courier'"),
        ({"entities": {"courier": [1, 2], "town": ["a"]}, "features": ["shape:trips", "sky:rain"]}, 400, "courier: 2, town: 1"),
        ({"entities": {"courier": [1]}, "features": ["shape"]}, 400, "shape:FEATURE"),
        ({"entities": {"courier": [1]}, "features": ["shape:trips", "shape:trips"]}, 400, "twice"),
        ({"entities": {"courier": [1]}, "features": ["shape:tripz"]}, 404, "'trips'"),
        ({"entities": {"courier": [1]}, "features": ["shaep:trips"]}, 404, "'shape'"),
        ({"entities": {"courier": [1]}, "feature_service": "dispach"}, 404, "'dispatch'"),
    ],
)
def test_bad_requests_say_what_is_wrong(kit: FeastKit, body: Any, status: int, told: str) -> None:
    assert told in error(kit, body, status=status)


def test_what_is_missing_is_told_as_feast_tells_it(kit: FeastKit) -> None:
    """A JSON text that holds JSON with module, class and message; Feast's SDK raises that class."""
    detail = json.loads(kit.ask("/get-online-features", {"feature_service": "x", "entities": {"a": [1]}}).json())
    assert (detail["module"], detail["class"]) == ("feast.errors", "FeatureServiceNotFoundException")


@pytest.mark.parametrize("couriers", [1, 500])
def test_values_that_come_too_late_are_not_looked_up(tmp_path: Path, couriers: int) -> None:
    kit = FeastKit(tmp_path, inline_rows=100)
    body = {"features": ["shape:trips"], "entities": {"courier": [1] * couriers}}
    looks: list[int] = []
    find, kit.reader._find = kit.reader._find, lambda *args: looks.append(1) or find(*args)  # type: ignore[method-assign, func-returns-value]
    assert kit.ask("/get-online-features", body, **{TIMEOUT_HEADER: "60000"}).status == 200
    reply = kit.ask("/get-online-features", body, **{TIMEOUT_HEADER: "soon"})
    assert (reply.status, TIMEOUT_HEADER in reply.json()["error"]) == (400, True)
    assert looks == [1]
    kit.app._features._settings = Settings(timeout_s=1e-9, inline_rows=100)  # type: ignore[union-attr]
    reply = kit.ask("/get-online-features", body)
    assert (reply.status, "within 1e-09 s" in reply.json()["error"]) == (504, True)
    assert looks == [1]


def test_limits_are_named(tmp_path: Path) -> None:
    kit = FeastKit(tmp_path, max_body_bytes=9_000_000)
    assert "50,000 at most" in error(kit, {"features": ["shape:trips"], "entities": {"courier": list(range(100_000))}})
    assert "9000000 bytes" in error(kit, {"features": ["shape:trips"], "entities": {"courier": ["1" * 10_000_000]}}, status=413)
    columns: dict[str, list[Any]] = dict.fromkeys(("courier", "happened", "trips", "rating", "home", "since"), [1] * 10_001)
    assert "10,000 at most" in error(kit, {"push_source_name": "rides", "df": columns}, "/push")


def test_plans_are_compiled_once_and_bounded(kit: FeastKit) -> None:
    for i in range(400):
        kit.features("shape:trips", "shape:rating", full=bool(i % 2), courier=[1])
    assert len(kit.reader._plans) == 2
    plan = next(iter(kit.reader._plans.values()))
    kit.features("shape:trips", "shape:rating", courier=[2])
    assert next(iter(kit.reader._plans.values())) is plan


PUSHED: dict[str, list[Any]] = {
    "courier": [1, 7],
    "happened": ["2023-11-14T22:13:00", "2023-11-14T22:12:00+00:00"],
    "trips": [77, 5],
    "rating": [2, 5.0],
    "home": ["bergen", None],
    "since": [None, None],
}


@pytest.mark.parametrize("to", ["online", "offline", "online_and_offline"])
def test_pushed_rows_are_served_at_once_and_durable(kit: FeastKit, to: str) -> None:
    done = kit.ask("/push", {"push_source_name": "rides-live", "df": PUSHED, "to": to})
    assert (done.status, done.json()) == (200, {"table": "rides", "rows": 2, "offset": 2})
    got = kit.features("shape:trips", "shape:rating", courier=[1, 7])
    assert [v[:2] for v in got["trips"]] == [(77, "PRESENT"), (5, "PRESENT")]
    assert got["rating"][0] == (2.0, "PRESENT", "2023-11-14T22:13:00Z")
    first = json.loads(kit.stream.read("rides", 0)[0].body)
    assert first == {"courier": 1, "happened": "2023-11-14T22:13:00Z", "written": format_instant(NOW), "trips": 77, "rating": 2.0,
                     "home": "bergen", "since": None}  # fmt: skip


def test_feasts_remote_store_writes_by_view_with_its_own_names_of_the_clocks(kit: FeastKit) -> None:
    df: dict[str, list[Any]] = {k: v for k, v in PUSHED.items() if k != "happened"}
    df |= {"event_timestamp": PUSHED["happened"], "created": ["2023-11-14T22:13:10", None]}
    assert kit.ask("/write-to-online-store", {"feature_view_name": "shape", "df": df, "allow_registry_cache": False}).status == 200
    assert kit.features("shape:trips", courier=[1])["trips"][0][0] == 77
    assert json.loads(kit.stream.read("rides", 0)[0].body)["written"] == "2023-11-14T22:13:10Z"
    assert "takes no pushed rows" in error(kit, {"feature_view_name": "sky", "df": df}, "/write-to-online-store")
    assert "'shape'" in error(kit, {"feature_view_name": "shap", "df": df}, "/write-to-online-store", 404)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"to": "sideways"}, "online_and_offline"),
        ({"df": {**PUSHED, "trips": [1]}}, "trips: 1"),
        ({"df": {k: v for k, v in PUSHED.items() if k != "rating"}}, "lacks rating"),
        ({"df": {k: v for k, v in PUSHED.items() if k != "happened"}}, "'happened'"),
        ({"df": {**PUSHED, "happened": ["soon", "later"]}}, "soon"),
        ({"df": {**PUSHED, "happened": [1.5, 2.5]}}, "'happened'"),
        ({"df": {**PUSHED, "trips": ["many", "few"]}}, "'trips' of table 'rides' is int64, the pushed values are string"),
        ({"df": {**PUSHED, "trips": [1, 1.5]}}, "'trips'"),
        ({"df": {**PUSHED, "courier": [None, "1"]}}, "'courier'"),
        ({"df": {}}, "happened"),
    ],
)
def test_a_push_that_does_not_fit_is_refused_whole(kit: FeastKit, change: dict[str, Any], told: str) -> None:
    assert told in error(kit, {"push_source_name": "rides-live", "df": PUSHED, **change}, "/push")
    assert kit.stream.read("rides", 0) == []


def test_an_unknown_push_source_is_named(kit: FeastKit) -> None:
    assert "'rides-live'" in error(kit, {"push_source_name": "rides-liv", "df": PUSHED}, "/push", 404)


def test_who_may_do_what(tmp_path: Path) -> None:
    kit = FeastKit(tmp_path, token=True)
    ask = {"features": ["shape:trips"], "entities": {"courier": [1]}}
    assert kit.ask("/get-online-features", ask).status == 401
    viewer, scientist, engineer = (kit.tokens.make(role, role) for role in ("viewer", "data-scientist", "data-engineer"))

    def status(path: str, body: Any, secret: str) -> int:
        return kit.ask(path, body, authorization=f"Bearer {secret}").status

    assert [status("/get-online-features", ask, s) for s in (viewer, scientist, engineer)] == [403, 200, 200]
    push = {"push_source_name": "rides-live", "df": PUSHED}
    assert [status("/push", push, s) for s in (viewer, scientist, engineer)] == [403, 403, 200]
    assert kit.ask("/health", b"", "GET").status == 200


def test_other_methods_and_paths(kit: FeastKit) -> None:
    assert kit.ask("/get-online-features", b"", "GET").status == 405
    assert kit.ask("/health", b"", "POST").status == 405
    assert "features materialize" in error(kit, {"end_ts": "2023-01-01"}, "/materialize-incremental", 404)
    spec = kit.ask("/openapi.json", b"", "GET").json()
    assert set(spec["paths"]) == {"/get-online-features", "/push", "/write-to-online-store", "/health"}
    assert spec["components"]["schemas"]["OnlineRequest"]["required"] == ["entities"]
    kit.features("shape:trips", courier=[1])
    metrics = kit.ask("/metrics", b"", "GET").answer.decode()
    assert "tidemill_features_requests_total 5" in metrics
    assert 'tidemill_features_errors_total{status="405"} 2' in metrics

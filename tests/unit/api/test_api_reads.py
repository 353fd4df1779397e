"""Every listing is paged, and one of everything can be had."""

import json

import pytest
import sqlalchemy as sa
from tests.support.client import Client
from tests.support.sample_platform import SamplePlatform

from tidemill.ledger import schema

API = "/api/v1"


def test_loop_says_what_happens_at_each_of_the_eleven_stages(client: Client) -> None:
    body = client.get(f"{API}/loop").json()
    stages = {s["stage"]: s for s in body["stages"]}
    assert list(stages) == [
        "ingest",
        "validate",
        "version",
        "features",
        "train",
        "gate",
        "register",
        "deploy",
        "serve",
        "monitor",
        "retrain",
    ]
    assert stages["validate"]["state"] == "attention"
    assert stages["deploy"] | {"at_us": 0} == {"stage": "deploy", "state": "working", "at_us": 0, "fact": "canary v10"}
    assert stages["gate"]["fact"] == "promote v10"


def test_pages_follow_one_another_without_gap_or_overlap(client: Client) -> None:
    whole = [b["id"] for b in client.get(f"{API}/batches", params={"table": "weather", "limit": 90}).json()["items"]]
    pages: list[str] = []
    offset = 0
    while len(pages) < 90:
        page = client.get(f"{API}/batches", params={"table": "weather", "limit": 30, "offset": offset}).json()
        pages += [b["id"] for b in page["items"]]
        offset = page["next"]
    assert pages == whole


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 201}, {"offset": -1}, {"limit": "many"}])
def test_a_limit_out_of_bounds_is_the_clients_fault(client: Client, params: dict[str, str]) -> None:
    answer = client.get(f"{API}/batches", params=params)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "hint"}


def test_rejected_rows_can_be_read_with_what_was_wrong(client: Client) -> None:
    (batch,) = client.get(f"{API}/batches", params={"table": "landings", "status": "rejected"}).json()["items"]
    assert batch["anomalies"][0] | {"rows": 0} == {
        "column": "arr_delay", "rule": "missing_column", "expected": "column arr_delay (number)", "observed": "no such column; arrival_delay is new", "rows": 0,
    }  # fmt: skip
    rows = client.get(f"{API}/batches/{batch['id']}/rows", params={"limit": 3}).json()
    assert "arrival_delay" in rows["columns"]
    assert len(rows["items"]) == 3


def test_runs_answer_only_the_metrics_asked_for(client: Client) -> None:
    items = client.get(f"{API}/runs", params={"metric": "holdout.auc", "limit": 5}).json()["items"]
    assert {tuple(item["metrics"]) for item in items} == {("holdout.auc",)}
    assert items == sorted(items, key=lambda r: -r["started_us"])
    ordered = client.get(f"{API}/runs/search", params={"order_by": "holdout.auc", "descending": True, "limit": 4}).json()["items"]
    values = [r["metrics"]["holdout.auc"] for r in ordered]
    assert values == sorted(values, reverse=True)


def test_compare_marks_what_differs(client: Client) -> None:
    ids = [r["id"] for r in client.get(f"{API}/runs", params={"limit": 2}).json()["items"]]
    body = client.get(f"{API}/runs/compare", params={"run": ids}).json()
    differs = {row["name"]: row["differs"] for row in [*body["params"], *body["metrics"]]}
    assert differs["trees"] is False
    assert differs["until"] is True


def test_a_version_carries_the_decisions_about_it(client: Client) -> None:
    body = client.get(f"{API}/models/flight-delay/versions/6").json()
    assert [d["outcome"] for d in body["decisions"]] == ["promote", "start", "advance", "rollback"]
    assert client.get(f"{API}/models/flight-delay/versions/champion").json()["version"] == 8


def test_series_are_oldest_first_with_interval_and_coverage(client: Client) -> None:
    items = client.get(f"{API}/monitors/flight-delay/log_loss", params={"limit": 9}).json()["items"]
    assert len(items) == 9
    assert [i["until_us"] for i in items] == sorted(i["until_us"] for i in items)
    assert all(i["low"] < i["value"] < i["high"] and i["covered"] <= i["n"] for i in items)


def test_why_goes_from_the_prediction_to_source_rows(client: Client) -> None:
    body = client.get(f"{API}/predictions/flight-0400").json()
    assert body["model"]["uri"] == "models:/flight-delay/8"
    assert any(row["use"] == "used" for feature in body["features"] for row in feature["rows"])


@pytest.mark.parametrize(
    "path",
    ["health", "tables", "tables/landings/snapshots", "tables/landings/schema", "features", "features/legs", "models", "models/flight-delay/versions",
     "decisions", "services", "services/flight-delay", "monitors/flight-delay", "labels/late", "replays", "replays/2013", "openapi.json"],
)  # fmt: skip
def test_it_answers_json(client: Client, path: str) -> None:
    answer = client.get(f"{API}/{path}")
    assert answer.status_code == 200
    json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(
    "path",
    ["tables/nope/snapshots", "batches/nope", "runs/nope", "models/nope/versions", "models/flight-delay/versions/99", "decisions/nope", "services/nope",
     "features/nope", "replays/nope", "predictions/nope", "labels/nope", "nowhere"],
)  # fmt: skip
def test_what_does_not_exist_is_404_with_a_next_step(client: Client, path: str) -> None:
    answer = client.get(f"{API}/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]
    assert answer.json()["hint"]


def test_a_near_miss_is_offered(client: Client) -> None:
    assert "'landings'" in client.get(f"{API}/tables/landing/snapshots").json()["hint"]


def test_events_page_goes_on_behind_a_number(client: Client, platform: SamplePlatform) -> None:
    first = client.get(f"{API}/events", params={"after": 0, "limit": 3}).json()["items"]
    second = client.get(f"{API}/events", params={"after": first[-1]["seq"], "limit": 3}).json()["items"]
    assert [e["seq"] for e in first + second] == [1, 2, 3, 4, 5, 6]
    with platform.ledger.read() as db:
        assert first[0]["id"] == db.execute(sa.select(schema.event.c.id).order_by(schema.event.c.seq)).scalar()

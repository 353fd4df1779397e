"""Pages of what a rollout decided, of replayed traffic and of load tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import sample

from tidemill.ledger import schema
from tidemill.ledger.store import to_json, upsert
from tidemill.retraining.decisions import record
from tidemill.retraining.ports import Decision

ARMS = [
    {"version": 7, "deployment": "d7", "difference": -0.01, "error": 0.004, "n": 812, "chance": 0.93, "before": 0.1, "weight": 0.844},
    {"version": 6, "deployment": "d6", "chance": 0.07, "before": 0.9, "weight": 0.156},
]
LIMIT = {"name": "errors", "limit": 0.01, "seen": 0.05, "n": 800, "log_e": 12.5, "needed": 5.3, "broken": True}
TRAFFIC = {
    "id": "traffic-1", "at_us": 1_388_000_000_000_000, "service": "flight-delay", "version": 6, "from_us": 1_387_000_000_000_000,
    "until_us": 1_388_000_000_000_000, "rows": 900, "differ": 0.5, "crossed": 0.01, "degraded": 3,
    "apart": {"p50": 0.01, "p90": 0.1, "p99": 0.2, "max": 0.4}, "scores": {"edges": [0.0, 0.5, 1.0], "logged": [600, 300], "candidate": [500, 400]},
    "quality": {"metric": "log_loss", "labelled": 0, "coverage": 0.0}, "slices": [],
    "largest": [{"id": "flight-0400", "answered_by": 5, "at_us": 1_387_500_000_000_000, "logged": 0.1, "candidate": 0.5}],
}  # fmt: skip
LOAD = {
    "id": "loadtest-1", "at_us": 1_388_000_000_000_000, "service": "flight-delay", "calls": 1000, "rows": 1400, "most_rows": 40, "users": 8,
    "seconds": 30, "asked_rate": None, "requests": 5000, "failures": 2, "rate": 166.6, "tool": "locust 2", "host": "http://127.0.0.1:8401",
    "latency_ms": {"p50": 4.0, "p95": 9.0, "p99": 20.0, "p999": None, "max": 60.0},
    "history": [[0, 8, 0.0, 0.0, None, None, None], [1, 8, 160.0, 0.1, 4.0, 9.0, 20.0]], "errors": [{"error": "status 503", "n": 2}],
}  # fmt: skip


@pytest.fixture
def client(tmp_path: Path) -> Client:
    platform = sample(tmp_path)
    facts: dict[str, Any] = {"kind": "rollout", "service": "flight-delay", "actor": "reconciler", "at_us": 1_388_000_000_000_000}
    evidence = {"reason": "shares follow", "arms": ARMS, "floor": 0.1}
    with platform.ledger.write() as db:
        cause = {"deployments": ["d7"], "replaces": 6}
        record(db, Decision(id="weighed", subject="flight-delay", outcome="weigh", cause=cause, evidence=evidence, **facts))
        broken = {"reason": "failed in 5 %", "limits": [LIMIT, {**LIMIT, "name": "drift", "broken": False, "log_e": None, "needed": None}]}
        record(db, Decision(id="broken", subject="flight-delay/7", outcome="reject", cause={"version": 7}, evidence=broken, **facts))
        for name, value in (("traffic:traffic-1", TRAFFIC), ("loadtest:loadtest-1", LOAD)):
            upsert(db, schema.state, {"name": name, "value": to_json(value), "at_us": 1})
    return Client(*build(platform))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/decisions/weighed", ["v7", "84%", "93.0%", "812"]),
        ("/decisions/broken", ["errors", "0.0500", "800", "broken", "drift"]),
        (
            "/traffic/traffic-1",
            [
                "v6 on the traffic of flight-delay",
                "50.0%",
                "flight-0400",
                "no label has come yet",
                "plot-scores",
                "3 requests were left out",
            ],
        ),
        ("/loadtests/loadtest-1", ["Load of flight-delay", "166.6", "status 503", "plot-latency"]),
        ("/services", ["/traffic/traffic-1", "/loadtests/loadtest-1"]),
    ],
)
def test_a_page_shows_what_was_found(client: Client, path: str, shown: list[str]) -> None:
    page = client.get(path)
    assert page.status_code == 200
    for text in shown:
        assert text in page.text, text


@pytest.mark.parametrize("path", ["/traffic/none", "/loadtests/none"])
def test_what_is_not_there_says_how_to_make_it(client: Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 404
    assert "tidemill" in page.text

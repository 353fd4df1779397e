"""Who may write what, and what is refused."""

import json
from collections.abc import AsyncIterator

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, empty, request_row

from tidemill.core.clock import ReplayClock
from tidemill.core.instants import format_instant
from tidemill.serving.tokens import Tokens

API = "/api/v1"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SamplePlatform:
    return empty(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def client(platform: SamplePlatform) -> Client:
    return Client(*build(platform))


def _as(platform: SamplePlatform, role: str) -> dict[str, str]:
    assert isinstance(platform.clock, ReplayClock)
    secret = Tokens(platform.ledger, platform.clock).make(role, role)
    platform.clock.advance_to(platform.clock.now_us() + 3_000_000)  # servers look for new tokens every two seconds
    return {"authorization": f"Bearer {secret}"}


def test_pushed_rows_are_on_the_stream_when_it_answers(client: Client, platform: SamplePlatform) -> None:
    row = request_row(platform.clock.now_us())
    answer = client.post(f"{API}/tables/landings/rows", json=[row, {**row, "flight": "UA2"}])
    assert answer.status_code == 202
    assert answer.json()["rows"] == 2
    assert [json.loads(r.body)["flight"] for r in platform.stream.read("landings", answer.json()["offset"] - 2)] == ["UA1", "UA2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"flight": None}, "lacks flight"), ({"landed_at": "soon"}, "not an ISO 8601 time"), ({"landed_at": True}, "must be an ISO 8601"), ({"recorded_at": 1.5}, "must be")],
)  # fmt: skip
def test_a_row_without_key_or_times_is_refused_whole(
    client: Client, platform: SamplePlatform, change: dict[str, object], said: str
) -> None:
    row, before = request_row(platform.clock.now_us()), len(platform.stream.read("landings", 0))
    answer = client.post(f"{API}/tables/landings/rows", json=[row, {**row, **change}])
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert len(platform.stream.read("landings", 0)) == before


@pytest.mark.parametrize("body", ["[]", "{}", "null", "nonsense", "[1]", '["a"]'])
def test_a_push_that_is_not_rows_is_400(client: Client, body: str) -> None:
    answer = client.post(f"{API}/tables/landings/rows", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["hint"]


def test_a_label_can_be_stated_and_revised(client: Client, platform: SamplePlatform) -> None:
    now = platform.clock.now_us()
    said = {"label": "late", "key": "f1", "value": 1, "event": format_instant(now - 9_000_000), "known": format_instant(now - 8_000_000)}
    assert client.post(f"{API}/labels", json=[said]).json() == {"new": 1, "stated": 1}
    assert client.post(f"{API}/labels", json=[said]).json() == {"new": 0, "stated": 1}
    assert client.post(f"{API}/labels", json=[{**said, "value": 0, "known": format_instant(now)}]).status_code == 201
    assert [row.value for row in platform.labels.history("late", "f1")] == [1.0, 0.0]
    assert platform.labels.history("late", "f1")[0].writer == "api:tests"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"label": "early"}, 404),
        ({"event": "2030-01-01"}, 400),
        ({"value": "x"}, 400),
        ({"extra": 1}, 400),
        ({"key": 7}, 400),
        ({"event": None}, 400),
    ],
)
def test_a_bad_label_changes_nothing(client: Client, platform: SamplePlatform, change: dict[str, object], status: int) -> None:
    said = {"label": "late", "key": "f2", "value": 1.0, "event": "2013-12-30T00:00:00Z", **change}
    assert client.post(f"{API}/labels", json=[said]).status_code == status
    assert platform.labels.history("late", "f2") == []


def test_without_a_token_nothing_is_answered(platform: SamplePlatform) -> None:
    app, _ = build(platform)
    bare = Client(app)
    for path in ("health", "tables", "events", "predictions/x"):
        answer = bare.get(f"{API}/{path}")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert bare.get(f"{API}/health", headers={"authorization": "Bearer tm_guess"}).status_code == 401
    assert bare.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("role", "status"), [("viewer", 403), ("data-scientist", 403), ("data-engineer", 202), ("ml-engineer", 202), ("admin", 202)]
)
def test_roles_decide_who_writes(client: Client, platform: SamplePlatform, role: str, status: int) -> None:
    headers = _as(platform, role)
    assert client.get(f"{API}/tables", headers=headers).status_code == 200
    assert client.post(f"{API}/tables/landings/rows", json=[request_row(platform.clock.now_us())], headers=headers).status_code == status


def test_a_body_over_the_limit_is_413_whatever_it_says(client: Client) -> None:
    big = b"[" + b" " * (9 * 1024 * 1024) + b"]"
    assert client.post(f"{API}/labels", content=big).status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    assert client.post(f"{API}/labels", content=pieces()).status_code == 413


def test_another_host_name_is_refused(client: Client) -> None:
    assert client.get(f"{API}/health", headers={"host": "evil.example:8400"}).status_code == 400
    assert client.get(f"{API}/health", headers={"host": "localhost:8400"}).status_code == 200


def test_a_cookie_writes_only_from_our_own_pages(client: Client, platform: SamplePlatform) -> None:
    token = _as(platform, "admin")["authorization"].removeprefix("Bearer ")
    mine = Client(client.app, cookie=token)
    rows = [request_row(platform.clock.now_us())]
    path = f"{API}/tables/landings/rows"
    assert mine.get(f"{API}/tables").status_code == 200
    assert mine.post(path, json=rows).status_code == 403
    assert mine.post(path, json=rows, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert mine.post(path, json=rows, headers={"origin": "http://evil.example"}).status_code == 403
    assert mine.post(path, json=rows, headers={"sec-fetch-site": "same-origin"}).status_code == 202
    assert mine.post(path, json=rows, headers={"origin": "http://127.0.0.1"}).status_code == 202

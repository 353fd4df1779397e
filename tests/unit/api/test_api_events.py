"""The live stream: what happens after, in order, once, with a sign of life."""

import asyncio
import json

import pytest
from tests.support.client import Client
from tests.support.sample_platform import SamplePlatform, empty

from tidemill.api.errors import STATUS, UnauthenticatedError, split, status_of
from tidemill.api.routes.events import follow
from tidemill.core import errors
from tidemill.ledger.store import emit


async def _take(platform: SamplePlatform, seq: int, count: int) -> list[bytes]:
    stream = follow(platform, seq, poll_s=0.01, heartbeat_s=0.05)
    try:
        return [await asyncio.wait_for(anext(stream), 5) for _ in range(count)]
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


def test_stream_gives_what_comes_after_in_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    platform = empty(tmp_path_factory.mktemp("events"))
    with platform.ledger.write() as db:
        for number in range(3):
            emit(db, "note", f"n{number}", {}, at_us=number)
    retry, *events = asyncio.run(_take(platform, 1, 3))
    assert retry == b"retry: 2000\n\n"
    assert [e.split(b"\n")[0] for e in events] == [b"id: 2", b"id: 3"]
    assert [json.loads(e.split(b"data: ")[1])["subject"] for e in events] == ["n1", "n2"]


def test_silence_is_broken_by_a_comment(tmp_path_factory: pytest.TempPathFactory) -> None:
    platform = empty(tmp_path_factory.mktemp("events"))
    assert asyncio.run(_take(platform, 0, 2))[1] == b": still here\n\n"


def test_a_page_resumes_behind_the_last_event_id(client: Client) -> None:
    answer = client.get("/api/v1/events", headers={"last-event-id": "7"}, params={"limit": 1})
    assert answer.json()["items"][0]["seq"] == 8


def test_each_error_has_one_status_and_a_hint() -> None:
    expected = {
        "InvalidError": 400,
        "ConfigError": 400,
        "NotFoundError": 404,
        "ConflictError": 409,
        "RefusedError": 403,
        "CorruptError": 403,
        "UnavailableError": 503,
    }
    for name, status in expected.items():
        assert status_of(getattr(errors, name)("x"))[0] == status
    assert status_of(UnauthenticatedError("x"))[0] == 401
    assert status_of(errors.TidemillError("x"))[0] == 500
    assert all(hint for _, _, hint in STATUS)
    assert split(errors.NotFoundError("no table 'x'; did you mean 'y'?")) == ("no table 'x'", "did you mean 'y'?")


def test_a_bug_is_a_500_without_its_stack_trace(client: Client, platform: SamplePlatform) -> None:
    platform.log, kept = None, platform.log  # type: ignore[assignment]
    try:
        answer = client.get("/api/v1/predictions/x")
    finally:
        platform.log = kept
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "NoneType" not in answer.text

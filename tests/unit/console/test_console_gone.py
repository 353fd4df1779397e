"""While the ledger is gone, each page says since when, what goes on and what to do, and the one that was wanted comes by itself afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, sample
from tests.support.waiting import until as wait

from tidemill.api.gone import LedgerGone
from tidemill.api.routes.events import follow
from tidemill.cli.asked import ModelsAsked
from tidemill.console.gone import Models, page_of
from tidemill.core.instants import SECOND_US
from tidemill.ledger.store import emit
from tidemill.platform.config import load_config

HEALTH = {
    "conditions": [
        {"service": "late", "cause": "ledger", "since_us": 1, "means": "m", "reason": "r"},
        {"service": "late", "cause": "online_store", "since_us": 1, "means": "answers go on with <defaults>", "reason": "r"},
    ],
    "logging": {"state": "ok"},
    "services": {
        "late": {"serves": [{"version": 8, "role": "live"}, {"version": 9, "role": "shadow"}]},
        "new": {"serves": []},
    },
}


@pytest.fixture
def platform(tmp_path: Path) -> SamplePlatform:
    return sample(tmp_path)


@pytest.fixture
def console(platform: SamplePlatform) -> tuple[Any, str]:
    app, token = build(platform)
    app.state.gone = LedgerGone(platform, again_s=0.01)
    app.state.gone_page = page_of(lambda: Models("http://here:8401", health=HEALTH))
    return app, token


@contextmanager
def away(home: Path) -> Iterator[None]:
    moved = (home / "ledger.db").rename(home / "elsewhere")
    yield
    moved.rename(home / "ledger.db")


until = partial(wait, "it to come to pass", seconds=10)


def test_a_page_says_since_when_what_goes_on_and_what_to_do(console: tuple[Any, str], platform: SamplePlatform, tmp_path: Path) -> None:
    app, token = console
    client: Any = Client(app, token)
    assert client.get("/services").status_code == 200
    with away(tmp_path):
        pages = [client.get(path) for path in ("/", "/services", "/data?offset=0", "/models/late/1", "/fragments/loop")]
        assert {(p.status_code, p.headers["retry-after"]) for p in pages} == {(503, "5")}
        for page in pages:
            text = re.sub(r"\s+", " ", page.text)
            assert '<meta http-equiv="refresh" content="5">' in text
            assert 'href="/monitoring"' in text, "it has the console's own frame"
            assert "since 2014-01-01 00:40 UTC" in text
            assert f"the ledger {tmp_path}/ledger.db is not there" in text
            assert "Bring the ledger back: put it back as it was" in text
            assert '<td>late</td><td><span class="tag good">v8 live</span> </td>' in text
            assert "<b>Features cannot be read</b>" in text
            assert "answers go on with &lt;defaults&gt;" in text
            assert '<td>new</td><td><span class="tag bad">nothing</span>' in text
        assert client.get("/healthz").status_code == 200
        answer = client.get("/api/v1/services")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {
            "error": f"the ledger {tmp_path}/ledger.db is not there",
            "hint": "put it back as it was, nothing needs to be started anew",
        }
    for path in ("/", "/services"):
        assert client.get(path).status_code == 200


def test_since_is_of_this_time_and_not_of_one_before(console: tuple[Any, str], platform: SamplePlatform, tmp_path: Path) -> None:
    app, token = console
    client, began = Client(app, token), platform.clock.now_us()
    with away(tmp_path):
        assert client.get("/").status_code == 503
        assert app.state.gone.now.since_us == began
        platform.clock.advance_to(began + 60 * SECOND_US)  # type: ignore[attr-defined]
        assert "1 min ago" in client.get("/").text
    until(lambda: app.state.gone.now is None)
    platform.clock.advance_to(began + 3600 * SECOND_US)  # type: ignore[attr-defined]
    with away(tmp_path):
        assert "since 2014-01-01 01:40 UTC, just now" in client.get("/").text


def test_who_is_not_known_is_told_no_more_than_that(console: tuple[Any, str], tmp_path: Path) -> None:
    app, _ = console
    with away(tmp_path):
        page = Client(app, "tm_" + "x" * 43).get("/services")
        assert page.status_code == 503
        assert "Who you are cannot be told meanwhile" in page.text
        assert str(tmp_path) not in page.text
        assert "here:8401" not in page.text
        assert Client(app).get("/services").status_code == 303
        assert Client(app).get("/login").status_code == 200, "the form needs no ledger"
        tried = Client(app).post("/login", data={"token": "tm_" + "x" * 43}, headers={"sec-fetch-site": "same-origin"})
        assert tried.status_code == 503
        assert "http-equiv" not in tried.text, "what was sent is not sent again by itself"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (Models("http://here:8401", problem="[Errno 111] Connection refused"), "It does not answer either"),
        (Models("http://here:8401", health={"services": {}}), "It has not noticed yet"),
        (Models("http://here:8401", health={**HEALTH, "logging": {"state": "degraded"}}), '<span class="tag bad">in memory</span>'),
        (None, "This console knows of none"),
    ],
)
def test_what_the_model_server_says_or_that_it_says_nothing(
    console: tuple[Any, str], tmp_path: Path, said: Models | None, seen: str
) -> None:
    app, token = console
    app.state.gone_page = page_of(None if said is None else lambda: said)
    assert Client(app, token).get("/runs").status_code == 200, "so that the token is known"
    with away(tmp_path):
        assert seen in Client(app, token).get("/").text


def test_an_open_stream_says_that_the_ledger_goes_and_comes(platform: SamplePlatform, tmp_path: Path) -> None:
    newest = platform.ledger.events_after(0, limit=10_000)[-1].seq

    async def script() -> list[bytes]:
        stream = follow(platform, newest, poll_s=0.01)
        said = [await asyncio.wait_for(anext(stream), 5)]
        with away(tmp_path):
            while not said[-1].startswith(b"event: ledger"):
                said.append(await asyncio.wait_for(anext(stream), 5))
        with platform.ledger.write() as db:
            emit(db, "note", "behind it", {}, at_us=1)
        said += [await asyncio.wait_for(anext(stream), 5) for _ in range(2)]
        await stream.aclose()  # type: ignore[attr-defined]
        return said[-3:]

    went, came, event = asyncio.run(script())
    assert json.loads(went.split(b"data: ")[1]) == {"gone_since_us": platform.clock.now_us()}
    assert json.loads(came.split(b"data: ")[1]) == {"gone_since_us": None}
    assert b"behind it" in event


def test_the_model_server_is_asked_once_a_second_however_many_want_to_know(tmp_path: Path) -> None:
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(HEALTH).encode())

        def log_message(self, *_: Any) -> None:
            pass

    class Project:
        config = load_config(tmp_path, ["serving.host=0.0.0.0"])
        project = tmp_path

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask = ModelsAsked(Project(), "0.0.0.0", server.server_port)  # type: ignore[arg-type]
    assert {ask().address for _ in range(5)} == {f"http://0.0.0.0:{server.server_port}"}
    assert ask().noticed
    assert asked == ["/v2/health"]
    server.shutdown()
    server.server_close()
    silent = ModelsAsked(Project(), "0.0.0.0", server.server_port)()  # type: ignore[arg-type]
    assert "refused" in silent.problem
    assert not silent.health

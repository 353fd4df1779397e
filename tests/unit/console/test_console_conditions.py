"""What a server has to do without stands on the page of its service; a console whose ledger is gone says that."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, empty, sample
from tests.support.sample_story import SERVICE

from tidemill.core.conditions import Condition
from tidemill.core.instants import SECOND_US
from tidemill.ledger import conditions

GONE = "Redis at 10.0.0.7 does not answer: <timeout>"


@pytest.fixture
def platform(tmp_path: Path) -> SamplePlatform:
    return sample(tmp_path)


def state(platform: SamplePlatform, *current: Condition, process: str = "server-1", age_us: int = 0) -> None:
    with platform.ledger.write() as db:
        conditions.state(db, process, current, at_us=platform.clock.now_us() - age_us)


def banner(client: Client) -> list[str]:
    text = client.get(f"/services?service={SERVICE}").text
    return [part.split("</div>")[0] for part in text.split('<div class="notice bad" role="alert">')[1:]]


def test_a_condition_is_a_banner_with_since_and_what_it_means(platform: SamplePlatform) -> None:
    client, now = Client(*build(platform)), platform.clock.now_us()
    assert banner(client) == []
    online = Condition(SERVICE, "online_store", now - 90 * SECOND_US, "answers go on with the declared defaults, and say so", GONE)
    log = Condition(SERVICE, "prediction_log", now, "answers go on and say `logged: degraded`", "disk full")
    other = Condition("another", "model", now, "means", "why")
    state(platform, online, other, process="server-1")
    state(platform, Condition(*(SERVICE, "online_store", now, "means", "later")), log, process="server-2")
    first, second = banner(client)
    assert "<b>Features cannot be read</b> since 2014-01-01 00:38: answers go on with the declared defaults, and say so." in first
    assert "Redis at 10.0.0.7 does not answer: &lt;timeout&gt;" in first
    assert "<b>Predictions cannot be logged</b>" in second
    state(platform, process="server-1")
    state(platform, process="server-2")
    assert banner(client) == []
    state(platform, log, age_us=conditions.FRESH_US + 1)
    assert banner(client) == [], "a server that has ended says nothing"


def test_each_page_says_that_the_ledger_is_gone_and_the_next_one_is_as_before(platform: SamplePlatform, tmp_path: Path) -> None:
    client: Any = Client(*build(platform))
    assert client.get("/services").status_code == 200
    moved = (tmp_path / "ledger.db").rename(tmp_path / "elsewhere")
    for path in ("/", "/services", "/runs"):
        page = client.get(path)
        assert page.status_code == 503
        assert "ledger.db is not there" in page.text
        assert "put it back as it was" in page.text
    answer = client.get("/api/v1/services")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "nothing needs to be started anew" in answer.json()["hint"]
    assert client.get("/healthz").status_code == 200
    moved.rename(tmp_path / "ledger.db")
    assert client.get("/services").status_code == 200


def test_a_service_without_pipeline_and_model_says_what_to_do(tmp_path: Path) -> None:
    page = Client(*build(empty(tmp_path))).get("/services")
    assert "Nothing is deployed" in page.text
    assert "<code>tidemill deploy VERSION --now</code>" in page.text

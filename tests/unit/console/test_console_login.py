"""Getting in: by token, once by link, never from another site; and what every answer forbids."""

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, empty

from tidemill.console import once
from tidemill.core.clock import ReplayClock
from tidemill.core.errors import RefusedError

OURS = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> SamplePlatform:
    return empty(tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def entry(blank: SamplePlatform) -> tuple[Client, str]:
    app, token = build(blank)
    return Client(app), token


def test_without_a_cookie_every_page_leads_to_the_login_and_back(entry: tuple[Client, str]) -> None:
    answer = entry[0].get("/data?status=rejected")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fdata%3Fstatus%3Drejected"


def test_a_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_have(entry: tuple[Client, str]) -> None:
    client, token = entry
    answer = client.post("/login", data={"token": f" {token} ", "next": "/runs"}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert Client(client.app, cookie=answer.cookies["tidemill_token"]).get("/").status_code == 200


@pytest.mark.parametrize("data", [{"token": "tm_wrong"}, {"token": ""}, {}])
def test_a_wrong_token_gets_the_form_again(entry: tuple[Client, str], data: dict[str, str]) -> None:
    answer = entry[0].post("/login", data=data, headers=OURS)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "not known here" in answer.text


def test_another_site_cannot_log_anybody_in_or_out(entry: tuple[Client, str]) -> None:
    client, token = entry
    assert client.post("/login", data={"token": token}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/login", data={"token": token}, headers={"origin": "http://evil.example"}).status_code == 403
    inside = Client(client.app, cookie=token)
    assert inside.post("/logout").status_code == 403
    assert "tidemill_token=" in inside.post("/logout", headers=OURS).headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:alert(1)", "/a\r\nSet-Cookie: x=1"]
)
def test_after_login_only_our_own_pages_follow(entry: tuple[Client, str], path: str) -> None:
    client, token = entry
    assert client.post("/login", data={"token": token, "next": path}, headers=OURS).headers["location"] == "/"


def test_a_link_logs_in_once(entry: tuple[Client, str], blank: SamplePlatform) -> None:
    client, token = entry
    link = once.issue(blank.ledger, blank.clock, token)
    first = client.get(link)
    assert first.status_code == 303
    assert first.cookies["tidemill_token"] == token
    assert client.get(link).status_code == 403


def test_a_link_is_refused_after_ten_minutes_and_its_token_is_not_in_the_ledger(blank: SamplePlatform) -> None:
    assert isinstance(blank.clock, ReplayClock)
    code = once.issue(blank.ledger, blank.clock, "tm_secret").rpartition("/")[2]
    with blank.ledger.read() as db:
        kept = db.exec_driver_sql("select name || value from state where name like 'login:%'").scalars().all()
    assert not any("tm_secret" in row or code in row for row in kept)
    blank.clock.advance_to(blank.clock.now_us() + once.LASTS_US + 1)
    with pytest.raises(RefusedError, match="too old"):
        once.take(blank.ledger, blank.clock, code)


@pytest.mark.parametrize("path", ["/login", "/api/v1/health", "/nowhere", "/static/tidemill.css"])
def test_every_answer_forbids_what_we_do_not_need(entry: tuple[Client, str], path: str) -> None:
    headers = entry[0].get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_static_files_are_kept_for_a_year_by_their_digest(entry: tuple[Client, str]) -> None:
    client, _ = entry
    page = client.get("/login").text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = client.get(address)
    assert "immutable" in answer.headers["cache-control"]
    assert "immutable" not in client.get("/static/tidemill.css").headers["cache-control"]
    assert client.get(address, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get("/static/plotly.js").headers["content-encoding"] == "gzip"
    assert client.get("/static/nope.js").status_code == 404
    assert client.get("/static/..%2Fapp.py").status_code == 404

"""Pages of other sites may not ask the API, but for those that are named."""

import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform

APP = "https://app.example.com"
ASKS = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.mark.parametrize(("origins", "status", "told"), [((), 405, None), ((APP,), 200, APP)])
def test_only_a_site_that_is_named_may_ask(platform: SamplePlatform, origins: tuple[str, ...], status: int, told: str | None) -> None:
    app, token = build(platform, origins)
    client = Client(app, token)
    preflight = client.request("OPTIONS", "/api/v1/tables", headers=ASKS)
    answer = client.get("/api/v1/tables", headers={"origin": APP})
    assert (preflight.status_code, preflight.headers.get("access-control-allow-origin")) == (status, told)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, told)
    assert "access-control-allow-credentials" not in {**preflight.headers, **answer.headers}
    other = Client(app).request("OPTIONS", "/api/v1/tables", headers={**ASKS, "origin": "https://other.example.com"})
    assert other.status_code >= 400
    assert "access-control-allow-origin" not in other.headers
    by_cookie = Client(app, cookie=token).post("/api/v1/labels", headers={"origin": APP, "sec-fetch-site": "cross-site"})
    assert by_cookie.status_code == 403, "a cookie is nothing that another site may use"

"""Pages of other sites may not ask, but for those that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run

from tidemill.core.errors import ConfigError
from tidemill.platform.config import load_config

APP = "https://app.example.com"
ASKS = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def answers(stack: Stack, origins: frozenset[str], *asked: tuple[str, str, bytes, dict[str, str]]) -> list[tuple[int, dict[str, str]]]:
    async def script(local: Local) -> list[Any]:
        replies = [await local.ask(method, path, sent, 1, **headers) for method, path, sent, headers in asked]
        return [(r.status, dict(r.headers)) for r in replies]

    got: list[tuple[int, dict[str, str]]] = run(stack, script, origins=origins)
    return got


INFER = "/v2/models/late/infer"


def test_no_other_site_may_ask_by_default(stack: Stack) -> None:
    preflight, answer = answers(stack, frozenset(), ("OPTIONS", INFER, b"", ASKS), ("POST", INFER, body(FULL), {"origin": APP}))
    assert (preflight[0], answer[0]) == (405, 200)
    assert not [name for _status, headers in (preflight, answer) for name in headers if name.startswith("access-control")]


def test_a_site_that_is_named_may(stack: Stack) -> None:
    told = answers(
        stack,
        frozenset({APP}),
        ("OPTIONS", INFER, b"", ASKS),
        ("POST", INFER, body(FULL), {"origin": APP}),
        ("POST", "/invocations", b"nonsense", {"origin": APP, "content-type": "application/json"}),
        ("OPTIONS", INFER, b"", {**ASKS, "origin": "https://other.example.com"}),
        ("POST", INFER, body(FULL), {"origin": "null"}),
        ("POST", INFER, body(FULL), {}),
        ("OPTIONS", INFER, b"", {"origin": APP}),
    )
    (preflight, allowed), (infer, answer), (wrong, refused), *others, (plain, _) = told
    assert (preflight, allowed["access-control-allow-origin"], allowed["vary"]) == (204, APP, "origin")
    assert "POST" in allowed["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= set(allowed["access-control-allow-headers"].split(", "))
    assert "access-control-allow-credentials" not in allowed
    assert (infer, answer["access-control-allow-origin"]) == (200, APP)
    assert "tidemill-prediction-id" in answer["access-control-expose-headers"]
    assert (wrong, refused["access-control-allow-origin"]) == (400, APP), "so that the page can read what is wrong"
    assert [status for status, _ in others] == [405, 200, 200]
    assert not [name for _status, headers in others for name in headers if name.startswith("access-control")]
    assert all(headers["vary"] == "origin" for _status, headers in others)
    assert plain == 405, "no preflight"


@pytest.mark.parametrize(
    "origin", ["*", "app.example.com", "https://app.example.com/", "https://App.example.com", "https://u@a.com", "null"]
)
def test_what_is_no_site_is_refused(tmp_path: Path, origin: str) -> None:
    for setting in ("serving.origins", "api.origins"):
        with pytest.raises(ConfigError, match="is no origin; name each site"):
            load_config(tmp_path, [f"{setting}=['{origin}']"])
    assert load_config(tmp_path, ["serving.origins=['http://localhost:3000']"]).serving.origins == ("http://localhost:3000",)

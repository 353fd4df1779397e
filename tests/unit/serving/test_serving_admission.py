"""Too many at once, too many of one token, and too late: refused at once, and everything else goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError
from tidemill.core.instants import SECOND_US
from tidemill.serving.admission import TIMEOUT_HEADER, RateError, Rates, seconds_given
from tidemill.serving.http import Settings
from tidemill.serving.protocols.mlflow import MLflow
from tidemill.serving.protocols.platforms import Vertex


def logged(stack: Stack) -> int:
    return len(list(stack.log.read("late")))


def test_more_at_once_than_the_server_takes_are_refused_at_once(stack: Stack) -> None:
    async def script(local: Local) -> tuple[list[Any], int, str]:
        replies = await asyncio.gather(*(local.infer(body(FULL)) for _ in range(20)))
        after = await local.infer(body(FULL))
        return replies, after.status, (await local.ask("GET", "/metrics")).answer.decode()

    replies, after, metrics = run(stack, script, max_in_flight=5)
    taken = [r for r in replies if r.status == 200]
    refused = [r for r in replies if r.status == 503]
    assert (len(taken), len(refused)) == (5, 15)
    assert all(("retry-after", "1") in r.headers and r.read == 0 for r in refused), "before the body is read"
    assert "5 requests are being answered" in refused[0].json()["error"]
    assert after == 200
    assert logged(stack) == 6
    assert 'tidemill_serving_errors_total{service="late",status="503"} 15' in metrics


def test_other_protocols_are_refused_alike(stack: Stack) -> None:
    async def script(local: Local) -> list[Any]:
        asked = json.dumps({"instances": [FULL]}).encode()
        return await asyncio.gather(*(local.ask("POST", "/v1/models/late:predict", asked) for _ in range(8)))

    replies = run(stack, script, max_in_flight=3)
    refused = [r for r in replies if r.status == 503]
    assert len(refused) == 5
    assert all(("retry-after", "1") in r.headers for r in refused)


def test_a_request_whose_time_is_up_is_not_computed(stack: Stack) -> None:
    async def script(local: Local) -> list[Any]:
        late = body(FULL, parameters={"timeout": 1})
        others = (body(FULL), body(FULL, parameters={"timeout": 30_000_000}))
        return list(await asyncio.gather(*map(local.infer, (late, *others))))

    late, *others = run(stack, script)
    assert late.status == 504
    assert "within 1e-06 s" in late.json()["error"]
    assert [r.status for r in others] == [200, 200]
    assert logged(stack) == 2


def test_the_least_of_header_parameter_and_setting_counts(stack: Stack) -> None:
    class Slow:
        """A log that takes a while."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def append(self, predictions: Any) -> None:
            import time

            time.sleep(0.3)
            self._inner.append(predictions)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    stack.log = Slow(stack.log)

    async def script(local: Local) -> list[int]:
        replies = await asyncio.gather(
            local.infer(body(FULL), **{TIMEOUT_HEADER: "50"}),
            local.infer(body(FULL)),
            local.infer(body(FULL, parameters={"timeout": 20_000})),
        )
        return [r.status for r in replies]

    assert run(stack, script) == [504, 200, 504]
    assert run(stack, script, timeout_s=0.1) == [504, 504, 504]


@pytest.mark.parametrize(
    ("header", "parameters"),
    [("x", None), ("-5", None), ("0", None), ("9" * 12, None), (None, {"timeout": "1"}), (None, {"timeout": 0}), (None, {"timeout": True})],
)
def test_a_time_that_is_none_is_refused(header: str | None, parameters: Any) -> None:
    with pytest.raises(InvalidError, match="a whole number of"):
        seconds_given(header, parameters, 0.0)


@pytest.mark.parametrize("setting", [{"max_in_flight": 0}, {"rate": -1.0}, {"timeout_s": -1.0}])
def test_limits_that_are_none_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="at least 1"):
        Settings(**setting)


def test_what_is_given() -> None:
    assert seconds_given(None, None, 0.0) == 0
    assert seconds_given("250", {"timeout": 100_000}, 2.0) == 0.1
    assert seconds_given("250", {}, 0.0) == 0.25
    assert seconds_given(None, None, 2.0) == 2.0


def test_a_token_has_its_rate_and_others_theirs() -> None:
    clock = ReplayClock(10 * SECOND_US)
    rates = Rates(2.0, clock)
    for _ in range(2):
        rates.take("a")
    with pytest.raises(RateError, match="2 requests a second"):
        rates.take("a")
    rates.take("b")
    clock.advance_to(10 * SECOND_US + SECOND_US // 2)
    rates.take("a")
    with pytest.raises(RateError):
        rates.take("a")
    clock.advance_to(100 * SECOND_US)
    for _ in range(2):
        rates.take("a")
    with pytest.raises(RateError):
        rates.take("a")


def test_each_protocol_has_its_word_for_too_often() -> None:
    assert b'"REQUEST_LIMIT_EXCEEDED"' in MLflow().failure(429, "slower")[2]
    assert b'"RESOURCE_EXHAUSTED"' in Vertex().failure(429, "slower")[2]


def test_a_token_that_asks_too_often_gets_429(stack: Stack) -> None:
    one, other = (stack.tokens.make(name, "admin") for name in ("one", "other"))

    async def script(local: Local) -> list[Any]:
        return [await local.infer(body(FULL), authorization=f"Bearer {secret}") for secret in (one, one, one, other)]

    replies = run(stack, script, rate=2.0, token=True)
    assert [r.status for r in replies] == [200, 200, 429, 200]
    assert ("retry-after", "1") in replies[2].headers
    assert "'one'" in replies[2].json()["error"]

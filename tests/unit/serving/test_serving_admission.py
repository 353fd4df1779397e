"""Too many at once, too many of one token, and too late: refused at once, and everything else goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run, tensors

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError
from tidemill.core.instants import SECOND_US
from tidemill.serving.admission import TIMEOUT_HEADER, RateError, Rates, seconds_given
from tidemill.serving.around import AroundLog
from tidemill.serving.contracts import contract_of
from tidemill.serving.http import Settings
from tidemill.serving.ports import Prediction, PredictionLog
from tidemill.serving.protocols.mlflow import MLflow
from tidemill.serving.protocols.platforms import Vertex


class Gated(AroundLog):
    """A log that takes nothing while its gate is shut."""

    def __init__(self, log: PredictionLog) -> None:
        super().__init__(log)
        self.gate = threading.Event()

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        self.gate.wait(60)
        super().append(predictions, durable=durable)


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
    log = stack.log = Gated(stack.log)

    async def script(local: Local) -> list[int]:
        late = [
            local.infer(body(FULL), **{TIMEOUT_HEADER: "50"}),
            local.infer(body(FULL, parameters={"timeout": 20_000})),
        ]
        other = asyncio.create_task(local.infer(body(FULL)))
        replies = await asyncio.gather(*late)
        if local.app.settings.timeout_s:
            await other
        log.gate.set()
        return [r.status for r in (*replies, await other)]

    assert run(stack, script) == [504, 504, 200]
    log.gate.clear()
    assert run(stack, script, timeout_s=0.1) == [504, 504, 504]


ROW = list(FULL.values())
SPLIT = {"columns": list(FULL), "data": [ROW]}
ROUTES: dict[str, tuple[str, Any, Any]] = {
    "rest": ("/v2/models/late/versions/1/infer", {"inputs": tensors(FULL)}, lambda told: told["error"]),
    "binary": ("/v2/models/late/infer", {"inputs": tensors(FULL), "parameters": {"binary_data_output": True}}, lambda told: told["error"]),
    "mlflow": ("/invocations", {"dataframe_split": SPLIT}, lambda told: (told["error_code"] == "DEADLINE_EXCEEDED") * told["message"]),
    "tensorflow": ("/v1/models/late:predict", {"instances": [FULL]}, lambda told: told["error"]),
    "classify": ("/v1/models/late:classify", {"examples": [FULL]}, lambda told: told["error"]),
    "seldon": ("/api/v1.0/predictions", {"jsonData": FULL}, lambda told: (told["status"]["code"] == 504) * told["status"]["info"]),
    "vertex": ("/predict", {"instances": [ROW]}, lambda told: (told["error"]["status"] == "DEADLINE_EXCEEDED") * told["error"]["message"]),
    "azureml": ("/score", {"input_data": SPLIT}, lambda told: told["message"]),
}
"""Of each protocol: a path that scores, a body for it, and where it says what went wrong."""


@pytest.mark.parametrize("name", ROUTES)
def test_every_protocol_has_its_time_and_says_in_its_own_words_that_it_is_up(stack: Stack, name: str) -> None:
    path, sent, reason = ROUTES[name]
    contract = contract_of(name, {"AIP_PREDICT_ROUTE": "/predict"}) if name in ("vertex", "azureml") else None
    content, log = json.dumps(sent).encode(), Gated(stack.log)
    stack.log = log

    async def script(local: Local) -> None:
        def ask(**headers: str) -> Any:
            return local.ask("POST", path, content, 1, **{"content-type": "application/json", **headers})

        late = await ask(**{TIMEOUT_HEADER: "50"})
        assert (late.status, "within 0.05 s" in reason(late.json())) == (504, True)
        log.gate.set()
        assert (await ask(**{TIMEOUT_HEADER: "60000"})).status == 200
        assert (await ask(**{TIMEOUT_HEADER: "soon"})).status == 400

    async def no_time(local: Local) -> None:
        assert (await local.ask("POST", path, content, 1, **{"content-type": "application/json"})).status == 504

    run(stack, script, contract=contract)
    assert logged(stack) == 2
    run(stack, no_time, contract=contract, timeout_s=1e-9)
    assert logged(stack) == 2, "nothing was computed"


def test_time_spent_in_line_for_a_thread_counts(stack: Stack) -> None:
    async def script(local: Local) -> list[int]:
        free = threading.Event()
        for _ in range(2):
            local.app._threads.submit(free.wait, 60)  # as large groups before this one do
        waits = asyncio.create_task(local.infer(body(FULL, 2)))
        late = await local.infer(body(FULL, 3), **{TIMEOUT_HEADER: "30"})
        free.set()
        return [late.status, (await waits).status]

    assert run(stack, script, inline_rows=1) == [504, 200]
    assert logged(stack) == 2


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


def test_what_is_refused_is_counted_whatever_protocol_it_came_by(stack: Stack) -> None:
    secret = stack.tokens.make("one", "admin")

    async def script() -> Any:
        async with Local(stack, token=True, rate=1.0) as local:
            for path, sent in (("/invocations", {"instances": [FULL]}), ("/v1/models/late:predict", {"instances": [FULL]})):
                await local.ask("POST", path, json.dumps(sent).encode(), authorization=f"Bearer {secret}")
            await local.ask("POST", "/invocations", b"{}")
            return local.app.endpoints["late"].metrics

    counts = asyncio.run(script())
    assert (counts.requests, dict(counts.errors)) == (3, {429: 1, 401: 1})


def test_a_token_that_asks_too_often_gets_429(stack: Stack) -> None:
    one, other = (stack.tokens.make(name, "admin") for name in ("one", "other"))

    async def script(local: Local) -> list[Any]:
        return [await local.infer(body(FULL), authorization=f"Bearer {secret}") for secret in (one, one, one, other)]

    replies = run(stack, script, rate=2.0, token=True)
    assert [r.status for r in replies] == [200, 200, 429, 200]
    assert ("retry-after", "1") in replies[2].headers
    assert "'one'" in replies[2].json()["error"]

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.serving_kit import FULL, Local, Reply, Stack, body, run

from tidemill.core.errors import UnavailableError
from tidemill.core.instants import SECOND_US
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.ports import Prediction


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path)
    for version in (1, 2, 3):
        made.add(version)
    made.deploy(live=1)
    return made


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass within 4 s")


def test_how_far_the_online_state_of_a_view_lags_is_a_metric(stack: Stack) -> None:
    """And one that cannot be told, as the store is gone, leaves the other metrics."""
    known = {"sky": stack.clock.now_us() - 90 * SECOND_US, "sea": stack.clock.now_us() + 1}

    def gone() -> dict[str, int]:
        raise UnavailableError("gone")

    async def lines(known_us: Callable[[], dict[str, int]]) -> list[str]:
        async with Local(stack, hooks={"known_us": known_us}) as local:
            return (await local.ask("GET", "/metrics")).answer.decode().splitlines()

    told = asyncio.run(lines(lambda: known))
    assert [line for line in told if line.startswith("tidemill_serving_feature_lag_seconds{")] == [
        'tidemill_serving_feature_lag_seconds{view="sea"} 0.0',
        'tidemill_serving_feature_lag_seconds{view="sky"} 90.0',
    ]
    told = asyncio.run(lines(gone))
    assert not any("feature_lag_seconds{" in line for line in told)
    assert any(line.startswith("tidemill_serving_deployment_weight{") for line in told)


def test_protocol_pages(stack: Stack) -> None:
    stack.deploy(live=1, shadow=2)

    async def script(local: Local) -> dict[str, Reply]:
        paths = (
            "/v2",
            "/v2/",
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/health",
            "/v2/models/late",
            "/v2/models/late/versions/2",
            "/v2/models/late/ready",
            "/v2/models/late/versions/1/ready",
            "/metrics",
        )
        return {path: await local.ask("GET", path) for path in paths}

    got = run(stack, script)
    assert {reply.status for reply in got.values()} == {200}
    assert got["/v2"].json()["name"] == "tidemill"
    assert got["/v2/"].json() == got["/v2"].json()
    assert got["/v2/health/live"].json() == {"live": True}
    assert got["/v2/health/ready"].json() == {"ready": True}
    assert got["/v2/models/late/ready"].json() == {"name": "late", "ready": True}
    described = got["/v2/models/late"].json()
    assert described["versions"] == ["1", "2"]
    assert {i["name"]: i["datatype"] for i in described["inputs"]} == {
        "sky__wind": "FP64",
        "sky__cover": "BYTES",
        "carrier": "BYTES",
        "hour": "FP64",
        "gust": "FP64",
        "origin": "BYTES",
        "scheduled_at": "BYTES",
        "factor": "FP64",
    }
    assert got["/v2/models/late/versions/2"].json()["versions"] == ["2"]
    assert got["/v2/health"].json()["services"]["late"]["serves"][0] == {"version": 1, "role": "live", "weight": 1.0}


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "/v2"),
        ("GET", "/v2/models/late/infer", 405, "POST"),
        ("POST", "/v2/models/late", 405, "GET"),
        ("POST", "/v2/health/live", 405, "GET"),
        ("POST", "/v2/models/lat/infer", 404, "did you mean 'late'"),
        ("GET", "/v2/models/nothing", 404, "no model named"),
        ("POST", "/v2/models/late/versions/9/infer", 404, "'9'"),
        ("POST", "/v2/models/late/versions/x/infer", 404, "'x'"),
        ("GET", "/v2/models/late/versions/9", 404, "'9'"),
        ("POST", "/v2/models/late/load", 404, "nothing is at"),
        ("POST", "/v2/models/../infer", 404, ""),
    ],
)
def test_what_is_not_there(stack: Stack, method: str, path: str, status: int, reason: str) -> None:
    got: Reply = run(stack, lambda local: local.ask(method, path, body(FULL)))
    assert got.status == status
    assert reason in got.json()["error"]
    allowed = {"POST": "POST", "GET": "GET, HEAD"}.get(reason) if status == 405 else None
    assert dict(got.headers).get("allow") == allowed


def test_tokens_are_demanded_but_for_health(stack: Stack) -> None:
    viewer, scientist = stack.tokens.make("v", "viewer"), stack.tokens.make("s", "data-scientist")

    async def script(local: Local) -> list[tuple[int, int, int, int]]:
        async def statuses(**headers: str) -> tuple[int, int, int, int]:
            replies = [
                await local.infer(body(FULL), **headers),
                await local.ask("GET", "/v2/models/late", b"", 1, **headers),
                await local.ask("GET", "/metrics", b"", 1, **headers),
                await local.ask("POST", "/v2/repository/models/late/load", b"", 1, **headers),
            ]
            return tuple(r.status for r in replies)  # type: ignore[return-value]

        assert [(await local.ask("GET", p)).status for p in ("/v2/health/live", "/v2/health/ready", "/v2/health")] == [200] * 3
        wrong = [{}, {"authorization": "Bearer tm_wrong"}, {"authorization": viewer}, {"authorization": "Bearer "}]
        assert [await statuses(**headers) for headers in wrong] == [(401, 401, 401, 401)] * 4
        refused = [await local.infer(body(FULL)), await local.ask("GET", "/metrics"), await local.ask("POST", "/invocations", b"{}")]
        assert [dict(r.headers).get("www-authenticate") for r in refused] == ['Bearer realm="tidemill"'] * 3
        return [await statuses(authorization=f"Bearer {secret}") for secret in (viewer, scientist, stack.tokens.make("m", "ml-engineer"))]

    async def go() -> Any:
        async with Local(stack, token=True) as local:
            return await script(local)

    assert asyncio.run(go()) == [(403, 200, 200, 403), (200, 200, 200, 403), (200, 200, 200, 200)]


def test_a_revoked_token_is_forgotten(stack: Stack) -> None:
    secret = stack.tokens.make("gone", "admin")

    async def go() -> list[int]:
        async with Local(stack, token=True) as local:
            first = (await local.infer(body(FULL), authorization=f"Bearer {secret}")).status
            stack.tokens.revoke("gone")
            stack.clock.advance_to(stack.clock.now_us() + 5_000_000)
            return [first, (await local.infer(body(FULL), authorization=f"Bearer {secret}")).status]

    assert asyncio.run(go()) == [200, 401]


def test_a_change_is_noticed_or_told(stack: Stack) -> None:
    async def script(local: Local) -> None:
        stack.deploy(live=2)
        await until(lambda: local.scorer.lineup.deployments[0].version == 2)

    run(stack, script, poll_s=0.02)

    async def told(local: Local) -> tuple[Any, Any, Any]:
        stack.deploy(live=3)
        replies = [await local.ask("POST", "/v2/repository/models/late/load") for _ in range(2)]
        return replies[0].json(), replies[1].json(), (await local.infer(body(FULL))).json()["model_version"]

    assert run(stack, told, poll_s=60) == ({"changed": True}, {"changed": False}, "3")


def test_a_bad_deployment_is_reported_and_the_old_model_answers(stack: Stack) -> None:
    async def script(local: Local) -> tuple[Reply, Any, str]:
        (stack.blobs.fetch(stack.add(3)) / "model.onnx").chmod(0o644)
        (stack.blobs.fetch(stack.add(3)) / "model.onnx").write_bytes(b"broken")
        stack.deploy(live=3)
        load = await local.ask("POST", "/v2/repository/models/late/load")
        return load, (await local.ask("GET", "/v2/health")).json(), (await local.infer(body(FULL))).json()["model_version"]

    load, health, version = run(stack, script, poll_s=60)
    assert load.status == 409
    assert "sha256:" in load.json()["error"]
    assert health["services"]["late"]["problem"] == load.json()["error"]
    assert version == "1"


def test_not_ready_until_something_is_live(stack: Stack) -> None:
    stack.deploy()

    async def script(local: Local) -> list[int]:
        return [
            (await local.ask("GET", "/v2/health/ready")).status,
            (await local.ask("GET", "/v2/models/late/ready")).status,
            (await local.infer(body(FULL))).status,
        ]

    assert run(stack, script) == [503, 503, 503]


def test_rows_of_one_request_may_meet_different_versions(stack: Stack) -> None:
    stack.deploy(live=1, canary=(2, 0.5))
    got = run(stack, lambda local: local.infer(body(FULL, 60, id="r"))).json()
    outputs = {o["name"]: o["data"] for o in got["outputs"]}
    assert got["parameters"]["role"] == "mixed"
    assert set(zip(outputs["model_version"], outputs["role"], strict=True)) == {(1, "live"), (2, "canary")}
    one = run(stack, lambda local: local.infer(body(FULL, id="r"), "/v2/models/late/versions/2/infer")).json()
    assert (one["model_version"], one["parameters"]["role"]) == ("2", "canary")


def test_shadows_are_scored_after_the_answer(stack: Stack) -> None:
    stack.deploy(live=1, canary=(2, 0.5), shadow=3)
    run(stack, lambda local: local.infer(body(FULL, 40, id="r")))
    records = [(p.version, p.role) for p in stack.log.read("late")]
    assert len(records) == 120
    assert records.count((3, "shadow")) == 40
    assert records.count((1, "live")) == records.count((2, "shadow"))
    assert records.count((2, "canary")) == records.count((1, "shadow"))


class Slow:
    """A shadow's model that never comes to an end of it, or fails."""

    def __init__(self, inner: Any, gate: Callable[[], object]) -> None:
        self.features, self.texts, self._inner, self._gate = inner.features, inner.texts, inner, gate

    def predict(self, rows: Sequence[Sequence[Any]]) -> Any:
        self._gate()
        return self._inner.predict(rows)


def _with_shadow(local: Local, gate: Callable[[], object]) -> None:
    lineup = local.scorer.lineup
    shadow = next(d for d in lineup.deployments if d.role == "shadow")
    lineup.models[shadow.digest] = Slow(lineup.models[shadow.digest], gate)  # type: ignore[index]


def test_a_slow_shadow_slows_nobody_and_what_does_not_fit_is_counted(stack: Stack) -> None:
    import threading

    stack.deploy(live=1, shadow=2)
    gate = threading.Event()

    async def script(local: Local) -> Any:
        _with_shadow(local, lambda: bool(gate.wait(5)))
        for _ in range(30):
            assert (await asyncio.wait_for(local.infer(body(FULL)), 1)).status == 200
        await until(lambda: sum(s.dropped for s in local.app.shadows.values()) == 20)
        text = (await local.ask("GET", "/metrics")).answer.decode()
        gate.set()
        return text

    text = run(stack, script, shadow_rows=10)
    assert "tidemill_serving_shadow_dropped_total 20" in text
    assert sorted(p.role for p in stack.log.read("late")).count("shadow") == 10


def test_a_failing_shadow_fails_nobody(stack: Stack) -> None:
    stack.deploy(live=1, shadow=2)

    def fail() -> None:
        raise RuntimeError("shadow")

    async def script(local: Local) -> Any:
        _with_shadow(local, fail)
        replies = [await local.infer(body(FULL)) for _ in range(3)]
        await until(lambda: sum(s.failed for s in local.app.shadows.values()) == 3)
        return [reply.json()["parameters"]["logged"] for reply in replies]

    assert run(stack, script) == [True, True, True]


def test_a_model_that_fails_on_a_request_is_a_500_without_details(stack: Stack) -> None:
    async def script(local: Local) -> Reply:
        def fail() -> None:
            raise ValueError("secret detail")

        lineup = local.scorer.lineup
        lineup.models[lineup.deployments[0].digest] = Slow(next(iter(lineup.models.values())), fail)  # type: ignore[index]
        return await local.infer(body(FULL))

    got = run(stack, script)
    assert got.status == 500
    assert "secret" not in got.answer.decode()


class FullDisk:
    """A prediction log on a disk that is full for a while, or stalls."""

    def __init__(self, inner: SqlitePredictionLog) -> None:
        self.inner, self.full, self.stall_s = inner, False, 0.0

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        import time

        time.sleep(self.stall_s)
        if self.full:
            raise UnavailableError("the prediction log cannot be written: database or disk is full")
        self.inner.append(predictions, durable=durable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize(("sync", "kept"), [(True, True), (False, "written")])
def test_a_full_disk_degrades_logging_and_recovers_by_itself(tmp_path: Path, sync: bool, kept: bool | str) -> None:
    disk = FullDisk(SqlitePredictionLog(tmp_path / "p.db"))
    stack = Stack(tmp_path, log=disk)
    stack.add(1)
    stack.deploy(live=1)

    async def script(local: Local) -> list[Any]:
        async def logged(name: str) -> Any:
            return (await local.infer(body(FULL, id=name))).json()["parameters"]["logged"]

        for writer in local.app.writers:
            writer._probe_s = 0.05
        seen = [await logged("a")]
        disk.full = True
        seen += [await logged("b"), await logged("c")]
        seen.append((await local.ask("GET", "/v2/health")).json()["logging"])
        assert "tidemill_serving_log_degraded 1" in (await local.ask("GET", "/metrics")).answer.decode()
        disk.full = False
        await until(lambda: not local.app.degraded)
        return [*seen, await logged("d"), (await local.ask("GET", "/v2/health")).json()["logging"]["state"]]

    before, b, c, health, after, state = run(stack, script, log_sync=sync)
    assert (before, b, c, after, state) == (kept, "degraded", "degraded", kept, "ok")
    assert health["state"] == "degraded"
    assert "disk is full" in health["reasons"][0]
    assert [p.id for p in stack.log.read("late")] == ["a", "b", "c", "d"]


def test_a_stalled_disk_does_not_hold_answers_back(tmp_path: Path) -> None:
    disk = FullDisk(SqlitePredictionLog(tmp_path / "p.db"))
    stack = Stack(tmp_path, log=disk)
    stack.add(1)
    stack.deploy(live=1)
    disk.stall_s = 0.5

    async def script(local: Local) -> Any:
        other = await local.ask("POST", "/invocations", json.dumps({"instances": [FULL]}).encode())
        assert dict(other.headers)["tidemill-logged"] == "degraded"
        seldon = (await local.ask("POST", "/api/v1.0/predictions", json.dumps({"jsonData": FULL}).encode())).json()
        assert seldon["meta"]["tags"]["logged"] == "degraded"
        return (await asyncio.wait_for(local.infer(body(FULL)), 0.4)).json()["parameters"]["logged"]

    assert run(stack, script, log_timeout_s=0.05) == "degraded"
    assert len(list(stack.log.read("late"))) == 3


def test_metrics_count(stack: Stack) -> None:
    async def script(local: Local) -> str:
        await local.infer(body(FULL, 3))
        await local.infer(b"[]")
        return (await local.ask("GET", "/metrics")).answer.decode()

    lines = run(stack, script).splitlines()
    for line in (
        'tidemill_serving_requests_total{service="late"} 2',
        'tidemill_serving_errors_total{service="late",status="400"} 1',
        'tidemill_serving_predictions_total{service="late",version="1",role="live"} 3',
        'tidemill_serving_batch_rows_bucket{service="late",le="4"} 1',
        'tidemill_serving_latency_seconds_count{service="late"} 2',
        'tidemill_serving_deployment_weight{service="late",version="1",role="live"} 1.0',
        "tidemill_serving_log_degraded 0",
    ):
        assert line in lines
    assert json.dumps(lines)


class Odd:
    """A model that answers with NaN where the wind is strong."""

    def __init__(self, inner: Any) -> None:
        self.features, self.texts, self.apart, self._inner = inner.features, inner.texts, False, inner

    def predict(self, rows: Any) -> Any:
        return np.where([(row[0] or 0) > 50 for row in rows], np.nan, self._inner.predict(rows))


@pytest.mark.parametrize("roles", [{"live": 1}, {"live": 1, "shadow": 2}])
def test_a_score_that_is_no_number_is_no_answer(tmp_path: Path, roles: dict[str, Any]) -> None:
    stack = Stack.of(tmp_path, **roles)

    async def script(local: Local) -> list[Reply]:
        models: Any = local.scorer.lineup.models
        live = local.scorer.lineup.live
        assert live is not None
        models[live.digest] = Odd(models[live.digest])
        sent = [body(FULL, id="good"), body(FULL | {"sky__wind": 99.0}, id="bad")]
        got = list(await asyncio.gather(*map(local.infer, sent)))
        return [*got, await local.ask("POST", "/invocations", json.dumps({"instances": [FULL | {"sky__wind": 99.0}]}).encode())]

    good, bad, other = run(stack, script)
    assert (good.status, bad.status, other.status) == (200, 500, 500)
    reason = "version 1 of 'late' answered with a score that is not a finite number"
    assert reason in bad.json()["error"]
    assert reason in other.json()["message"]
    assert {p.id for p in stack.log.read("late") if p.role == "live"} == {"good"}

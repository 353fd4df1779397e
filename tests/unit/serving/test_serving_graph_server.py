"""A graph behind the model server: protocols that know nothing of it, errors, spans and counts of its nodes, what the log keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.graph_kit import GraphStack
from tests.support.serving_kit import FULL, LOOKUP, Local, body
from tests.unit.serving.test_serving_graph import FAR, NEAR, fails_on_storm, far, made, near

import tidemill as tm
from tidemill.core.clock import ReplayClock
from tidemill.serving.http import Settings
from tidemill.serving.metrics import ServiceMetrics, render
from tidemill.serving.server import build_app

NO = tm.function(lambda hour: hour, name="no")


@pytest.fixture
def stack(tmp_path: Path) -> GraphStack:
    return made(tmp_path, tm.sequence(fails_on_storm, tm.ensemble(NEAR, tm.switch("carrier", {"AA": NO}, otherwise=FAR), name="both")))


def test_every_protocol_answers_by_the_graph(stack: GraphStack) -> None:
    expected = pytest.approx((near(3) + far(3)) / 2)

    async def script() -> None:
        async with Local(stack) as local:
            got = (await local.infer(body(LOOKUP, id="a"))).json()
            assert (got["outputs"][0]["data"], got["model_version"], got["parameters"]["role"]) == ([expected], "0", "live")
            mlflow = await local.ask(
                "POST", "/invocations", json.dumps({"instances": [FULL]}).encode(), 1, **{"content-type": "application/json"}
            )
            assert mlflow.json()["predictions"] == [expected]
            rows = json.dumps({"instances": [LOOKUP, LOOKUP]}).encode()
            assert (await local.ask("POST", "/v1/models/late:predict", rows)).json()["predictions"] == [expected] * 2
            told = (await local.ask("GET", "/v2/models/late")).json()
            assert told["platform"] == "ensemble"
            assert {i["name"]: i["datatype"] for i in told["inputs"]}["carrier"] == "BYTES"
            explained = await local.infer(body(LOOKUP, parameters={"explain": True}))
            assert (explained.status, "answers by a graph" in explained.json()["error"]) == (400, True)
            assert (await local.ask("GET", "/v2/health/ready")).status == 200

    asyncio.run(script())
    (kept,) = stack.log.find("a")
    assert [(v.node, v.model, v.version) for v in kept.route[2:]] == [("near", "near", "3"), ("far", "far", "7")]
    assert kept.score == expected


def test_grpc_answers_by_the_graph_too_and_names_the_node_that_fails(stack: GraphStack) -> None:
    kit = pytest.importorskip("tests.unit.serving.test_serving_grpc")

    async def script(_local: Local, client: Any) -> list[Any]:
        sent = (kit.typed(LOOKUP, id="g"), kit.typed({**FULL, "sky__wind": 40.0}))
        return [await client.ask("ModelInfer", **one) for one in sent]

    good, (code, reason) = kit.run(stack, script)
    assert list(good.outputs[0].contents.fp64_contents) == [pytest.approx((near(3) + far(3)) / 2)]
    assert (code, reason) == (kit.Code.INTERNAL, "node 'fails_on_storm' of service 'late' failed; the server's log says why")
    (kept,) = stack.log.find("g")
    assert [(v.node, v.version) for v in kept.route[2:]] == [("near", "3"), ("far", "7")]


def test_a_node_that_fails_is_a_500_with_its_name_counted_once_and_others_are_answered(stack: GraphStack) -> None:
    async def script() -> str:
        async with Local(stack) as local:
            good, bad = await asyncio.gather(local.infer(body(FULL)), local.infer(body({**FULL, "sky__wind": 40.0})))
            assert (good.status, bad.status) == (200, 500)
            assert bad.json() == {"error": "node 'fails_on_storm' of service 'late' failed; the server's log says why"}
            return str((await local.ask("GET", "/metrics")).answer.decode())

    text = asyncio.run(script())
    assert 'tidemill_serving_node_failures_total{service="late",node="fails_on_storm",state="failed"} 1' in text
    assert 'tidemill_serving_errors_total{service="late",status="500"} 1' in text
    nodes = {line.split('node="')[1].split('"')[0] for line in text.splitlines() if "node_seconds_count" in line}
    assert nodes == {"fails_on_storm", "near", "far", "switch", "both"}


def test_workers_add_up_what_their_nodes_did() -> None:
    one, total = ServiceMetrics(), ServiceMetrics()
    one.node("near", 0.001, "")
    one.node("near", 0.003, "timeout")
    for _ in range(2):
        total.add(msgspec.json.decode(msgspec.json.encode(one.facts())))
    text = render({"late": total}, {})
    assert 'node_seconds_count{service="late",node="near"} 4' in text
    assert 'node_failures_total{service="late",node="near",state="timeout"} 2' in text


class Kept:
    """A trace, and a tracer of one, that keep what they are told."""

    traceparent = "00-1-2-01"

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, int, Mapping[str, Any]]] = []

    def begin(self, _name: str, _start_ns: int, _headers: Mapping[str, str]) -> Kept:
        return self

    def part(self, name: str, start_ns: int, end_ns: int, attributes: Mapping[str, Any]) -> None:
        self.parts.append((name, start_ns, end_ns, attributes))

    def end(self, end_ns: int, attributes: Mapping[str, Any], *, failed: bool) -> None:
        self.parts.append(("end", end_ns, end_ns, {**attributes, "failed": failed}))

    def close(self) -> None:
        pass


def test_each_node_has_a_span_within_that_of_the_model(stack: GraphStack) -> None:
    kept = Kept()

    async def script() -> None:
        async with Local(stack) as local:
            local.app.close()
            app = build_app({"late": local.scorer}, None, clock=ReplayClock(1_000_000), settings=Settings(), tracer=kept)
            local.app = app
            app.__rsgi_init__(asyncio.get_running_loop())
            await local.infer(body(FULL))
            await local.infer(body({**FULL, "sky__wind": 40.0}))

    asyncio.run(script())
    names = [name for name, *_ in kept.parts]
    assert names[:4] == ["features", "model", "node fails_on_storm", "node near"]
    assert names[4:] == ["node far", "node switch", "node both", "log", "end", "node fails_on_storm", "end"]
    spans = {name: (start, end) for name, start, end, _ in kept.parts[:9]}
    (outer, until), attributes = spans["model"], kept.parts[3][3]
    assert all(outer <= spans[n][0] <= spans[n][1] <= until for n in spans if n.startswith("node "))
    assert attributes == {"node": "near", "kind": "model", "rows": 1, "state": "ok", "version": "3"}
    assert (kept.parts[-2][3]["state"], kept.parts[-1][3]["failed"]) == ("failed", True)

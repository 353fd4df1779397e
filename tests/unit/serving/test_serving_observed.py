"""What a server tells about itself: exemplars, nulls, queues, traces and lines of its log."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from tests.support.serving_kit import FULL, LOOKUP, Local, Stack, body, tensors

from tidemill.adapters.otel.traces import open_traces
from tidemill.core.errors import ConfigError
from tidemill.core.logs import JsonFormatter
from tidemill.serving.http import Settings
from tidemill.serving.metrics import LOOKS, ServiceMetrics
from tidemill.serving.protocols.base import ID
from tidemill.serving.server import build_app
from tidemill.testing.serving import prediction

TRACE = "0af7651916cd43dd8448eb211c80319c"


def scrape(stack: Stack, accept: str) -> tuple[str, str]:
    async def script() -> tuple[str, str]:
        async with Local(stack) as local:
            await local.infer(body(FULL, id='a"b'))
            for i in range(3):
                await local.infer(body({**LOOKUP, "origin": "EWR"}, id=f"p{i}"))  # nobody knows the weather there
            local.app._pages.publish()
            got = await local.ask("GET", "/metrics", accept=accept)
            return dict(got.headers)["content-type"], got.answer.decode()

    return asyncio.run(script())


def values(text: str, read: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for family in read(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_a_scraper_that_asks_for_it_gets_open_metrics_with_exemplars(stack: Stack) -> None:
    kind, text = scrape(stack, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    found = values(text, read_open_metrics)
    exemplars = {s.exemplar.labels["prediction_id"] for s in found["tidemill_serving_latency_seconds_bucket"] if s.exemplar}
    assert exemplars
    assert exemplars <= {"p0", "p1", "p2"}, "an id that would have to be escaped is left out"
    assert found["tidemill_serving_requests_total"][0].value == 4


def test_others_get_the_text_format_without(stack: Stack) -> None:
    kind, text = scrape(stack, "text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    assert "# {" not in text
    found = values(text, read_text)
    assert found["tidemill_serving_requests_total"][0].value == 4


def test_nulls_are_counted_by_column_among_what_was_looked_at(stack: Stack) -> None:
    found = values(scrape(stack, "")[1], read_text)
    nulls = {s.labels["column"]: s.value for s in found["tidemill_serving_feature_nulls_total"]}
    assert nulls == {"sky__wind": 3, "sky__cover": 3, "gust": 3, "carrier": 0, "hour": 0}
    assert found["tidemill_serving_feature_rows_total"][0].value == 4
    assert found["tidemill_serving_queue_rows"][0].labels == {"service": "late"}


def test_looking_for_nulls_is_bounded_however_much_comes() -> None:
    metrics, group = ServiceMetrics(), [prediction(i) for i in range(64)]
    for _ in range(1000):
        metrics.offer(group)
    metrics.look()
    assert LOOKS <= metrics.looked < LOOKS + 64
    assert metrics.nulls["b"] == metrics.looked
    other = ServiceMetrics()
    other.add(metrics.facts())
    assert (other.nulls, other.looked) == (metrics.nulls, metrics.looked)


class Collector(ThreadingHTTPServer):
    """Takes spans as a collector does."""

    spans: list[Any]
    services: set[str]


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in sent.resource_spans:
            server.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                server.spans += scope.spans
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector(("127.0.0.1", 0), _Take)
    server.spans, server.services = [], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def traced(stack: Stack, collector: Collector, share: float, *headers: Mapping[str, str]) -> list[dict[str, str]]:
    tracer = open_traces(f"otlp://127.0.0.1:{collector.server_address[1]}", share, "tidemill")

    async def script() -> list[dict[str, str]]:
        local = Local(stack)
        local.app = build_app({"late": local.scorer}, None, clock=stack.clock, tracer=tracer)
        async with local:
            replies = [await local.infer(body(LOOKUP, id=f"t{i}"), **sent) for i, sent in enumerate(headers)]
            assert {reply.status for reply in replies} == {200}
            return [dict(reply.headers) for reply in replies]

    return asyncio.run(script())


def test_a_trace_has_the_parts_of_a_request_under_the_callers_span(stack: Stack, collector: Collector) -> None:
    [answered] = traced(stack, collector, 0.0, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"predict late", "features", "model", "log"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    root = by_name["predict late"]
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert answered["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert {by_name[name].parent_span_id for name in ("features", "model", "log")} == {root.span_id}
    facts = {a.key: a.value for a in root.attributes}
    assert (facts["tidemill.prediction_id"].string_value, facts["http.response.status_code"].int_value) == ("t0", 200)
    assert {a.key: a.value.int_value for a in by_name["model"].attributes}["version"] == 1
    times = [by_name[name] for name in ("features", "model", "log")]
    assert all(a.end_time_unix_nano <= b.end_time_unix_nano for a, b in pairwise(times))
    assert root.start_time_unix_nano <= times[0].start_time_unix_nano
    assert collector.services == {"tidemill"}


OTHERS: dict[str, tuple[str, Any]] = {
    "Open Inference Protocol v2": (
        "/v2/models/late/infer",
        {"inputs": tensors(LOOKUP), "id": "t", "parameters": {"binary_data_output": True}},
    ),
    "MLflow and SageMaker": ("/invocations", {"dataframe_records": [LOOKUP]}),
    "TensorFlow Serving": ("/v1/models/late:predict", {"instances": [LOOKUP]}),
    "Seldon": ("/api/v1.0/predictions", {"jsonData": LOOKUP}),
}


@pytest.mark.parametrize("protocol", OTHERS)
def test_a_trace_is_the_same_whatever_protocol_is_spoken(stack: Stack, collector: Collector, protocol: str) -> None:
    path, sent = OTHERS[protocol]
    tracer = open_traces(f"otlp://127.0.0.1:{collector.server_address[1]}", 0.0, "tidemill")

    async def script() -> list[dict[str, str]]:
        local = Local(stack)
        local.app = build_app({"late": local.scorer}, None, clock=stack.clock, tracer=tracer)
        async with local:
            headers = {"content-type": "application/json", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            replies = [await local.ask("POST", path, what, 1, **headers) for what in (json.dumps(sent).encode(), b'{"binary_data": }')]
            assert [reply.status for reply in replies] == [200, 400]
            return [dict(reply.headers) for reply in replies]

    answered, refused = asyncio.run(script())
    by_parent = {root.span_id: root for root in collector.spans if root.name == "predict late"}
    parts = [span for span in collector.spans if span.name != "predict late"]
    assert sorted(span.name for span in parts) == ["features", "log", "model"]
    [one] = {span.parent_span_id for span in parts}
    assert answered["traceparent"] == f"00-{TRACE}-{one.hex()}-01"
    facts = {a.key: a.value.string_value or a.value.int_value for a in by_parent[one].attributes}
    assert (facts["tidemill.protocol"], facts["http.response.status_code"]) == (protocol, 200)
    [other] = by_parent.keys() - {one}
    assert refused["traceparent"] == f"00-{TRACE}-{other.hex()}-01"
    assert by_parent[one].parent_span_id.hex() == by_parent[other].parent_span_id.hex() == "b7ad6b7169203331"


def test_calls_over_grpc_are_traced_too(stack: Stack, collector: Collector) -> None:
    kit = pytest.importorskip("tests.unit.serving.test_serving_grpc")
    tracer = open_traces(f"otlp://127.0.0.1:{collector.server_address[1]}", 0.0, "tidemill")

    async def script(local: Local, client: Any) -> list[dict[str, str]]:
        local.app._tracer = tracer
        local.app.endpoints["late"].tracing = True
        sent = kit.message("ModelInferRequest")(**kit.typed(LOOKUP, id="g")).SerializeToString()
        ask = client.channel.unary_unary(f"/{kit.SERVICE}/ModelInfer")
        calls = [ask(sent, metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)), ask(sent)]
        await asyncio.gather(*calls)
        return [dict(await call.initial_metadata()) for call in calls]

    answered, alone = kit.run(stack, script)
    assert sorted(span.name for span in collector.spans) == ["features", "log", "model", "predict late"]
    root = next(span for span in collector.spans if span.name == "predict late")
    facts = {a.key: a.value.string_value for a in root.attributes}
    assert (facts["tidemill.prediction_id"], facts["tidemill.protocol"]) == ("g", "Open Inference Protocol v2 over gRPC")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert answered["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert "traceparent" not in alone


def test_what_the_caller_does_not_decide_the_share_does(stack: Stack, collector: Collector) -> None:
    none = traced(stack, collector, 0.0, {}, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}, {"traceparent": "nonsense"})
    assert not any("traceparent" in headers for headers in none)
    assert collector.spans == []
    [answered] = traced(stack, collector, 1.0, {})
    assert int(answered["traceparent"][-2:], 16) & 1, "sampled"
    assert len(collector.spans) == 4


def test_a_collector_that_is_gone_fails_no_request(stack: Stack) -> None:
    tracer = open_traces("otlp://127.0.0.1:9", 1.0, "tidemill")

    async def script() -> int:
        local = Local(stack)
        local.app = build_app({"late": local.scorer}, None, clock=stack.clock, tracer=tracer)
        async with local:
            return (await local.infer(body(FULL))).status

    assert asyncio.run(script()) == 200


def test_an_address_without_a_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no host"):
        open_traces("otlp:somewhere", 1.0, "tidemill")


def test_a_log_line_is_json_with_the_predictions_id(stack: Stack) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, logger = Keep(), logging.getLogger("tidemill.access")
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    async def script() -> None:
        local = Local(stack)
        local.app = build_app({"late": local.scorer}, None, clock=stack.clock, settings=Settings(access_log=True))
        async with local:
            await local.infer(body(FULL, id="one"))
            await local.infer(b'{"inputs": []}')
            raw = struct.pack("<d", 1.0)
            binary = [{"name": n, "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}} for n in ("sky__wind",)]
            plain = [t for t in tensors(FULL) if t["name"] != "sky__wind"]
            head = json.dumps({"id": "two", "inputs": [*plain, *binary]}).encode()
            await local.infer(head + raw, **{"inference-header-content-length": str(len(head))})
            await local.ask("POST", "/v1/models/late:predict", json.dumps({"instances": [FULL]}).encode(), 1, **{ID: "three"})

    try:
        asyncio.run(script())
    finally:
        logger.removeHandler(handler)
    first, second, binary, third = map(json.loads, lines)
    assert (first["event"], first["prediction"], first["service"], first["status"]) == ("predicted", "one", "late", 200)
    assert first["ms"] > 0
    assert first["at"].endswith("Z")
    assert second["status"] == 400
    assert (binary["prediction"], binary["status"]) == ("two", 200)
    assert (third["prediction"], third["protocol"], third["status"]) == ("three", "TensorFlow Serving", 200)


def test_an_exception_is_a_field_of_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "went %s", ("wrong",), (ValueError, error, error.__traceback__)
        )
    body = json.loads(JsonFormatter().format(record))
    assert (body["event"], body["level"]) == ("went wrong", "error")
    assert "ValueError: why" in body["error"]

"""A `Tracer` by OpenTelemetry's SDK: spans are sent in groups by a thread of its own, to any collector that speaks OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tidemill.core.errors import ConfigError
from tidemill.serving.tracing import Attributes, Trace

_PATH = "/v1/traces"
_WAIT_MS = 3000


class OtelTrace:
    """The span of one request, with a child for each part."""

    def __init__(self, tracer: OtelTracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span)
        carrier: dict[str, str] = {}
        tracer.words.inject(carrier, self._inside)
        self.traceparent = carrier.get("traceparent", "")

    def part(self, name: str, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        """As the port says."""
        self._tracer.tracer.start_span(name, self._inside, attributes=attributes, start_time=start_ns).end(end_ns)

    def end(self, end_ns: int, attributes: Attributes, *, failed: bool) -> None:
        """As the port says."""
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(end_ns)


class OtelTracer:
    """Traces the share `share` of requests that come without a trace; where the caller has one, it decides."""

    def __init__(self, endpoint: str, *, share: float, service: str) -> None:
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(sampler=sampler, resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self.tracer = self._provider.get_tracer("tidemill")
        self.words = TraceContextTextMapPropagator()

    def begin(self, name: str, start_ns: int, headers: Mapping[str, str]) -> Trace | None:
        """As the port says."""
        span = self.tracer.start_span(name, self.words.extract(headers), kind=SpanKind.SERVER, start_time=start_ns)
        return OtelTrace(self, span) if span.is_recording() else None

    def close(self) -> None:
        """As the port says."""
        self._provider.force_flush(_WAIT_MS)
        self._provider.shutdown()


def open_traces(url: str, share: float, service: str) -> OtelTracer:
    """`otlp://host:4318` (or `otlps:` for TLS): the collector that spans are sent to; a path replaces `/v1/traces`."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if not host:
        raise ConfigError(f"stack.traces: {url!r} names no host; write otlp://127.0.0.1:4318")
    return OtelTracer(f"{'https' if scheme == 'otlps' else 'http'}://{host}{slash + path if path else _PATH}", share=share, service=service)

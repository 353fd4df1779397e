"""The model server over HTTP, on Granian's RSGI: JSON infer of the Open Inference Protocol itself, all else by `serving.protocols`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from tidemill.core import ids
from tidemill.core.clock import Clock
from tidemill.core.conditions import Cause
from tidemill.core.errors import ConflictError
from tidemill.core.instants import SECOND_US
from tidemill.serving import protocol
from tidemill.serving.admission import TIMEOUT_HEADER, OverloadedError, Pressure, Rates, limit, seconds_given
from tidemill.serving.board import Board
from tidemill.serving.conditions import Conditions, without_features, without_log
from tidemill.serving.cors import Origins
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.feast import FeatureRoutes
from tidemill.serving.feast.routes import openapi as feature_openapi
from tidemill.serving.graph.endpoint import GraphEndpoint
from tidemill.serving.graph.scorer import GraphScorer
from tidemill.serving.http import (
    JSON,
    Bodies,
    Http,
    MethodError,
    Reply,
    Settings,
    UnauthorisedError,
    failure,
    headers_of,
    problem,
    secret_of,
    told_to,
)
from tidemill.serving.pages import Pages, reply
from tidemill.serving.ports import PredictionLog
from tidemill.serving.protocols import PROTOCOLS, Asked, Feedback, Found, Host, Router, deployed, oip
from tidemill.serving.protocols.base import ID
from tidemill.serving.protocols.describe import openapi
from tidemill.serving.renewal import Renewal, Takes
from tidemill.serving.score import Scorer
from tidemill.serving.shadow import Comparing, Shadows
from tidemill.serving.tls import Tls
from tidemill.serving.tokens import Access, Action, Tokens
from tidemill.serving.tracing import Timed, Tracer, begin
from tidemill.serving.watch import Report, Tell, Watch
from tidemill.serving.writer import Group, LogWriter

logger = logging.getLogger(__name__)
access = logging.getLogger("tidemill.access")
_OPEN = {"/v2/health"}
_OWN = oip.OpenInference.name
_DRAIN_STEP_S = 0.01
Known = Callable[[], Mapping[str, int]]
Gauges = Callable[[], Mapping[str, Mapping[str, float]]]


class Beside(Protocol):
    """A server of another protocol, in the same process and event loop."""

    async def start(self) -> None:
        """Listen."""
        ...

    async def stop(self) -> None:
        """Take no more calls and let those in flight finish."""
        ...

    async def take_over(self, tls: Tls) -> None:
        """Show this certificate to each new connection."""
        ...


class ModelServer:
    """An RSGI application that answers for several services; see `build_app`."""

    def __init__(
        self,
        scorers: Mapping[str, Scorer],
        tokens: Tokens | None,
        *,
        clock: Clock,
        settings: Settings,
        features: FeatureRoutes | None,
        known_us: Known = dict,
        streams: Gauges = dict,
        feedback: Feedback | None = None,
        report: Report | None = None,
        tell: Tell | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self.settings = settings
        self._features = features
        self._feature_paths = frozenset(features.at if features is not None else ())
        self.stopping = False
        self.keep_open = False
        self.beside: list[Beside] = []
        self.begun: list[Callable[[], None]] = []
        self.in_flight = 0
        self._tokens = tokens
        self._clock = clock
        self._access: dict[str, tuple[Access, int]] = {}
        self._origins = Origins(settings.origins) if settings.origins else None
        self._rates = Rates(settings.rate, clock) if settings.rate else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tidemill-score")
        self._closed = False
        self.conditions = Conditions(clock)
        self.shadows: dict[int, Comparing] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self._pressure = Pressure()
        self._bodies = Bodies(self.settings.max_body_bytes, self.settings.body_s)
        self.writers: Sequence[LogWriter] = self._serve(scorers)
        self._infer_paths = {f"/v2/models/{name}/infer": endpoint for name, endpoint in self.endpoints.items()}
        self._pages = Pages(
            self.endpoints,
            self.writers,
            self.shadows,
            self.conditions,
            clock,
            lambda: self.stopping,
            known_us,
            features,
            streams,
        )
        self.watch = Watch(self.endpoints, self.conditions, poll_s=settings.poll_s, publish=self._pages.publish, report=report, tell=tell)
        self.host = Host(
            self.endpoints, settings, self._pages.is_ready, self._load, self._unload, _new_id, feedback, self._pages.conditions
        )
        self._router = Router(PROTOCOLS, self.host)
        if self.endpoints:
            self._feature_paths -= {"/openapi.json"}

    def _serve(self, scorers: Mapping[str, Scorer]) -> tuple[LogWriter, ...]:
        """Make an endpoint of each scorer; answers the writers of their logs."""
        writers: dict[int, LogWriter] = {}
        for name, scorer in scorers.items():
            writer = writers.get(id(scorer.log)) or self._writer(scorer.log, [n for n, s in scorers.items() if s.log is scorer.log])
            writers[id(scorer.log)] = writer
            shadows = self.shadows.setdefault(id(scorer.log), Shadows(writer, max_rows=self.settings.shadow_rows))
            beside = (writer, shadows, self._clock, self.settings)
            self.endpoints[name] = GraphEndpoint(scorer, *beside) if isinstance(scorer, GraphScorer) else Endpoint(scorer, *beside)
            self.endpoints[name].tracing = self._tracer is not None
            self.endpoints[name].pressure = self._pressure
            scorer.plan.watch(self._told(name, "online_store", without_features(scorer.service)))
        return tuple(writers.values())

    def _told(self, service: str, cause: Cause, means: str) -> Callable[[str], None]:
        """Who hears from somebody else why something is gone, and that it is back."""
        return lambda reason: self.conditions.state(service, cause, reason, means)

    def _writer(self, log: PredictionLog, services: Sequence[str]) -> LogWriter:
        """The writer of a log that these services share."""
        rows = self.settings.backlog_rows
        hears = [self._told(name, "prediction_log", without_log(rows)) for name in services]

        def told(reason: str) -> None:
            for hear in hears:
                hear(reason)

        return LogWriter(log, self._acknowledge, backlog_rows=rows, at_once=not self.settings.log_sync, told=told)

    # the life of the server

    @property
    def bound(self) -> bool:
        """Whether requests can be answered: the event loop has begun."""
        return self._loop is not None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load what is deployed and begin; then call those who wait for that, in `begun`."""
        self._loop = loop
        for endpoint in self.endpoints.values():
            endpoint.bind(loop, self._threads)
        if self._features is not None:
            self._features.bind(self._threads)
        self.watch.refresh()
        for writer in self.writers:
            writer.start()
        for shadows in self.shadows.values():
            shadows.start()
        self.watch.start()
        self._sweep()
        for call in self.begun:
            call()

    def _sweep(self) -> None:
        if self._loop is not None and not self._closed:
            self._bodies.sweep()
            if self._features is not None:
                self._features.bodies.sweep()
            self._loop.call_later(min(1.0, self.settings.body_s / 4), self._sweep)

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """End, unless whoever runs the server waits for requests in flight first and closes it then."""
        if not self.keep_open:
            self.close()

    async def drained(self) -> None:
        """Wait until no request is in flight, for `Settings.drain_s` at most."""
        for _ in range(int(self.settings.drain_s / _DRAIN_STEP_S)):
            if not self.in_flight:
                break
            await asyncio.sleep(_DRAIN_STEP_S)
        await asyncio.sleep(5 * _DRAIN_STEP_S)  # the last answers leave by Granian's threads

    def share(self, board: Board) -> None:
        """Be one of several processes on one port: metrics are those of all of them together."""
        self._pages.board = board

    def renew(self, tls: Tls, host: str, takes: Sequence[Takes]) -> Renewal:
        """What has these servers show the certificate that stands in the files; its expiry is a metric, and why it is not shown a condition."""
        told = partial(self.conditions.state_all, list(self.endpoints), "certificate")
        made = Renewal(tls, host, self._clock, takes, told=told, every_s=self.settings.tls_look_s)
        self._pages.expires_us = lambda: made.expires_us
        return made

    def close(self) -> None:
        """Finish what was accepted: shadows, then the log. Idempotent."""
        if self._closed:
            return
        self.stopping = self._closed = True
        for shadows in self.shadows.values():
            shadows.close()
        for writer in self.writers:
            writer.close()
        self._threads.shutdown()
        self._pages.publish()
        self.watch.stop()
        if self._tracer is not None:
            self._tracer.close()

    async def _load(self, endpoint: Endpoint) -> bool | str:
        if self.conditions.has("ledger"):
            return endpoint.problem or "the ledger does not answer, so which versions are deployed cannot be told; see /v2/health"
        return await asyncio.get_running_loop().run_in_executor(None, self.watch.take_over, endpoint, True)

    def _unload(self, endpoint: Endpoint) -> None:
        if self._pages.board is not None:
            raise ConflictError("several processes answer here, and each would have to be told; restart with serving.workers=1 to unload")
        endpoint.scorer.release()
        endpoint.problem = "unloaded by a request; POST /v2/repository/models/NAME/load brings it back"

    def _acknowledge(self, groups: list[Group], logged: bool) -> None:
        """Called by the writer's thread: one wake-up of the loop for all groups that were made durable together."""
        if self._loop is None or self._loop.is_closed():
            return
        tells = [group.tell for group in groups if group.tell is not None]
        if tells:
            self._loop.call_soon_threadsafe(_tell, tells, logged)

    # requests

    async def __rsgi__(self, scope: Any, http: Http) -> None:
        """Answer one request."""
        if self._origins is not None:
            http, asked = self._origins.around(http, scope.headers), self._origins.preflight(scope.method, scope.headers)
            if asked is not None:
                http.response_bytes(*asked)
                return
        endpoint = self._infer_paths.get(scope.path)
        if endpoint is not None and scope.method == "POST":
            await self._infer(scope, http, endpoint)
            return
        self.in_flight += 1
        try:
            if self._features is not None and scope.path in self._feature_paths:
                await self._features.answer(scope, http, self._authorise, closing=self.stopping)
            else:
                await self._other(scope, http)
        finally:
            self.in_flight -= 1

    async def _infer(self, scope: Any, http: Http, endpoint: Endpoint) -> None:
        started = perf_counter()
        counts = endpoint.metrics
        counts.requests += 1
        self.in_flight += 1
        status, headers, of, trace = 200, None, "", None
        try:
            if self._tracer is not None:
                trace = self.begin(endpoint, scope.headers)
            self.admit()
            self._authorise(scope, "predict")
            body = await self._bodies.read(scope.headers.get("content-length"), http)
            if body[:1] != b"{" or _asks_for_more(body):
                asked = Asked(scope.method, scope.path, scope.headers, body, self.host, started, endpoint, trace=trace)
                try:
                    status, headers, body = await oip.infer(asked)
                finally:
                    of = asked.asked_as
            else:
                call = protocol.read(body, endpoint.scorer.plan, max_rows=self.settings.max_rows, make_id=_new_id)
                of, call.trace = call.id, trace
                self.host.check_time(call)
                seconds = seconds_given(scope.headers.get(TIMEOUT_HEADER), call.parameters, self.settings.timeout_s)
                answering = endpoint.submit(call, alone=self.in_flight == 1 and not seconds)
                limit(answering, seconds, started)
                answers, logged = await answering
                body = protocol.answer(call, endpoint.scorer.service.name, answers, logged or "degraded")
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            status, body = failure(error)
            counts.errors[status] += 1
        finally:
            self.in_flight -= 1
        headers = headers or headers_of(status, closing=self.stopping or status == 408)
        if trace is not None:
            headers = [*headers, ("traceparent", trace.trace.traceparent)]
        http.response_bytes(status, headers, body)
        took = perf_counter() - started
        counts.latency.observe(took, of)
        if trace is not None or self.settings.access_log:
            self.told(endpoint, of, status, took, trace, _OWN)

    def admit(self, more: int = 0) -> None:
        """Raise `OverloadedError` when, with `more` that are not counted yet, too much is in flight."""
        if self.in_flight + more > self.settings.max_in_flight:
            self._pressure.refused()
            raise OverloadedError(
                f"{self.settings.max_in_flight} requests are being answered, which is the limit of this server; ask again later"
            )

    def begin(self, endpoint: Endpoint, headers: Mapping[str, str]) -> Timed | None:
        """Begin the trace of a prediction, if there is a tracer and it is sampled."""
        return None if self._tracer is None else begin(self._tracer, self._clock, f"predict {endpoint.scorer.service.name}", headers)

    def told(self, endpoint: Endpoint, of: str, status: int, took: float, trace: Timed | None, protocol: str) -> None:
        """Say what became of a request, in its trace and in the log."""
        service = endpoint.scorer.service.name
        if trace is not None:
            facts: dict[str, Any] = {"tidemill.service": service, "tidemill.prediction_id": of, "tidemill.protocol": protocol}
            facts["http.response.status_code"] = status
            trace.end(failed=status >= 500, **facts)
        if self.settings.access_log:
            parent = trace.trace.traceparent if trace is not None else None
            extra = {"service": service, "prediction": of, "status": status, "ms": round(took * 1000, 3), "traceparent": parent}
            extra["protocol"] = protocol
            access.info("predicted", extra=extra)

    def _authorise(self, scope: Any, action: Action) -> str:
        """Whose token the request has. Raises `RefusedError` unless it allows `action`."""
        return "" if self._tokens is None else self.access(scope.headers.get("authorization") or "", action)

    def access(self, header: str, action: Action) -> str:
        """Whose token an authorization header has. Raises `RefusedError` unless it allows `action`."""
        if self._tokens is None:
            return ""
        known = self._access.get(header)
        now = self._clock.now_us()
        if known is None or known[1] < now:
            self._access.pop(header, None)
            access = self._tokens.verify(secret_of(header))
            if access is None:
                raise UnauthorisedError("a token is needed: send 'Authorization: Bearer TOKEN' (tidemill up showed one at its first start)")
            if len(self._access) > 1000:
                self._access.clear()
            known = self._access[header] = (access, now + SECOND_US)
        known[0].require(action)
        if self._rates is not None and action == "predict":
            self._rates.take(known[0].name)
        return known[0].name

    async def _other(self, scope: Any, http: Http) -> None:
        path = scope.path.rstrip("/") or "/"
        try:
            page = self._describe if path == "/openapi.json" else self._pages.at.get(path)
            found = None if page is not None else self._router.find(scope.method, path)
            status, headers, body = await self._page(scope, path, page) if page is not None else (0, [], b"")
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            found = None
            status, body = failure(error)
            headers = [*JSON, *told_to(error, status)]
        if found is not None:
            status, headers, body = await self._answer(scope, http, found)
        http.response_bytes(status, [*headers, ("connection", "close")] if self.stopping else headers, body)

    def _describe(self) -> Reply:
        features = feature_openapi() if self._features is not None else None
        return reply(openapi(self._router.routes, list(self.endpoints), features))

    async def _page(self, scope: Any, path: str, page: Callable[[], Reply]) -> Reply:
        if scope.method not in ("GET", "HEAD"):
            raise MethodError(f"{path} is read with GET", ["GET"])
        if path not in _OPEN:
            self._authorise(scope, "read")
        if path != "/metrics":
            return page()
        # it asks the online store and the ledger as well, which may take long to say no
        return await asyncio.get_running_loop().run_in_executor(None, self._pages.exposition, scope.headers.get("accept") or "")

    async def _answer(self, scope: Any, http: Http, found: Found) -> Reply:
        """Answer by a protocol's route; a prediction is counted, traced and told wherever it comes in."""
        started, name = perf_counter(), found.names.get("service") or found.route.service
        asks = self.endpoints.get(name or "") if found.route.action == "predict" else None
        trace = None if asks is None else self.begin(asks, scope.headers)
        if asks is not None:
            asks.metrics.requests += 1
        answer = await self._routed(scope, http, found, started, asks, trace)
        if asks is None:
            return answer
        of, took = next((value for key, value in answer[1] if key == ID), ""), perf_counter() - started
        asks.metrics.latency.observe(took, of)
        if trace is not None:
            answer = (answer[0], [*answer[1], ("traceparent", trace.trace.traceparent)], answer[2])
        if trace is not None or self.settings.access_log:
            self.told(asks, of, answer[0], took, trace, found.protocol.name)
        return answer

    async def _routed(self, scope: Any, http: Http, found: Found, started: float, asks: Endpoint | None, trace: Timed | None) -> Reply:
        """The answer; what goes wrong has the protocol's shape, and is counted where a prediction is asked for."""
        route = found.route
        try:
            if route.action == "predict":
                self.admit()
            who = self._authorise(scope, route.action) if route.action is not None and not route.is_open else ""
            name = found.names.get("service") or route.service
            endpoint = None if name is None else self.host.endpoint(name)
            version = None if endpoint is None else deployed(endpoint, found.names.get("version"))
            body = await self._bodies.read(scope.headers.get("content-length"), http)
            asked = Asked(scope.method, scope.path, scope.headers, body, self.host, started, endpoint, version, found.names, who, trace)
            return await route.answer(asked)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            status, reason = problem(error)
            answer = found.protocol.failure(status, reason)
            if more := told_to(error, status):
                answer = (answer[0], [*answer[1], *more], answer[2])
            if asks is not None:
                asks.metrics.errors[status] += 1
            return answer

    @property
    def degraded(self) -> bool:
        """Whether predictions are answered without being durably logged."""
        return any(writer.degraded for writer in self.writers)


def build_app(
    scorers: Mapping[str, Scorer],
    tokens: Tokens | None,
    *,
    clock: Clock,
    settings: Settings | None = None,
    features: FeatureRoutes | None = None,
    known_us: Known = dict,
    streams: Gauges = dict,
    feedback: Feedback | None = None,
    report: Report | None = None,
    tell: Tell | None = None,
    tracer: Tracer | None = None,
) -> ModelServer:
    """The RSGI application that serves each scorer under its service's name.

    Args:
        scorers: by service name.
        tokens: who may ask; None asks for no token (only for a server that nobody else can reach).
        clock: when a request is answered.
        settings: limits and intervals.
        features: answers Feast's feature server protocol beside the models, or without any.
        known_us: tells the greatest known time in the online state of each feature view, for the metrics.
        streams: tells how far streams are followed, for the metrics: values by label text, by name.
        feedback: keeps the label that feedback of Seldon's protocol states; without it such feedback is refused.
        report: takes what versions of a rollout have counted, by deployment and role.
        tell: takes what the server has to do without, for the console.
        tracer: traces requests; without one they do nothing for it.
    """
    return ModelServer(
        scorers,
        tokens,
        clock=clock,
        settings=settings or Settings(),
        features=features,
        known_us=known_us,
        streams=streams,
        feedback=feedback,
        report=report,
        tell=tell,
        tracer=tracer,
    )


def _asks_for_more(body: bytes) -> bool:
    """Whether an infer request may have binary data or ask for an explanation: both are said in parameters, which few requests have."""
    return b'"parameters"' in body and (b"binary_data" in body or b'"explain"' in body)


def _new_id() -> str:
    return ids.random_id("p")


def _tell(tells: Sequence[Callable[[bool], None]], logged: bool) -> None:
    for tell in tells:
        tell(logged)

"""The model server: Open Inference Protocol v2 over HTTP, on Granian's RSGI."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed
from time import perf_counter
from typing import Any

import msgspec

from tidemill.core import ids
from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError, NotFoundError, TidemillError, not_found
from tidemill.core.instants import SECOND_US
from tidemill.serving import metrics, protocol
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import CLOSING, JSON, TEXT, Http, MethodError, Settings, UnauthorisedError, failure, read_body
from tidemill.serving.ports import PredictionLog
from tidemill.serving.score import Scorer
from tidemill.serving.shadow import Shadows
from tidemill.serving.tokens import Access, Action, Tokens
from tidemill.serving.writer import Group, LogWriter

logger = logging.getLogger(__name__)
_MODEL = re.compile(r"/v2/(repository/)?models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|load))?")
_OPEN = {"/v2/health/live", "/v2/health/ready", "/v2/health"}
_DRAIN_STEP_S = 0.01
_Reply = tuple[int, list[tuple[str, str]], bytes]


class ModelServer:
    """An RSGI application that answers for several services; see `build_app`."""

    def __init__(self, scorers: Mapping[str, Scorer], tokens: Tokens | None, *, clock: Clock, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self.keep_open = False
        self.in_flight = 0
        self._tokens = tokens
        self._clock = clock
        self._access: dict[str, tuple[Access, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tidemill-score")
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="tidemill-deployments", daemon=True)
        writers: dict[int, LogWriter] = {}
        self.shadows: dict[int, Shadows] = {}
        self.endpoints: dict[str, Endpoint] = {}
        for name, scorer in scorers.items():
            writer = writers.setdefault(id(scorer.log), self._writer(scorer.log))
            shadows = self.shadows.setdefault(id(scorer.log), Shadows(writer, max_rows=settings.shadow_rows))
            self.endpoints[name] = Endpoint(scorer, writer, shadows, clock, settings)
        self.writers: Sequence[LogWriter] = tuple(writers.values())
        self._infer_paths = {f"/v2/models/{name}/infer": endpoint for name, endpoint in self.endpoints.items()}
        self._pages: dict[str, Callable[[], _Reply]] = {
            "/v2": self._about,
            "/v2/health": self._health,
            "/v2/health/live": lambda: _json({"live": True}),
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    def _writer(self, log: PredictionLog) -> LogWriter:
        return LogWriter(log, self._acknowledge, backlog_rows=self.settings.backlog_rows)

    # the life of the server

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load what is deployed and begin."""
        self._loop = loop
        for endpoint in self.endpoints.values():
            endpoint.bind(loop, self._threads)
        self.refresh()
        for writer in self.writers:
            writer.start()
        for shadows in self.shadows.values():
            shadows.start()
        self._poller.start()

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

    def close(self) -> None:
        """Finish what was accepted: shadows, then the log. Idempotent."""
        if self._stop.is_set():
            return
        self.stopping = True
        self._stop.set()
        for shadows in self.shadows.values():
            shadows.close()
        for writer in self.writers:
            writer.close()
        self._threads.shutdown()

    def refresh(self) -> dict[str, bool | str]:
        """Take over changed deployments of every service; answers per service whether it changed, or why it could not."""
        return {name: self._refresh(endpoint) for name, endpoint in self.endpoints.items()}

    def _refresh(self, endpoint: Endpoint) -> bool | str:
        scorer = endpoint.scorer
        try:
            changed = scorer.refresh()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new model, the old one goes on answering
            reason = str(error) if isinstance(error, TidemillError) else repr(error)
            if endpoint.problem != reason:
                logger.error("deployment.failed", extra={"service": scorer.service.name, "reason": reason})
            endpoint.problem = reason
            return reason
        endpoint.problem = ""
        if changed:
            served = [f"{d.role}={d.version}" for d in scorer.lineup.deployments]
            logger.info("deployment.changed", extra={"service": scorer.service.name, "serves": served})
        return changed

    def _poll(self) -> None:
        while not self._stop.wait(self.settings.poll_s):
            self.refresh()

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
        endpoint = self._infer_paths.get(scope.path)
        if endpoint is not None and scope.method == "POST":
            await self._infer(scope, http, endpoint, None)
            return
        try:
            status, headers, body = await self._other(scope, http)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            status, body = failure(error)
            headers = JSON
        if body:
            http.response_bytes(status, headers, body)

    async def _infer(self, scope: Any, http: Http, endpoint: Endpoint, version: int | None) -> None:
        started = perf_counter()
        counts = endpoint.metrics
        counts.requests += 1
        self.in_flight += 1
        status = 200
        try:
            self._authorise(scope, "predict")
            body = await read_body(scope.headers.get("content-length"), http, self.settings.max_body_bytes)
            call = protocol.read(body, endpoint.scorer.plan, max_rows=self.settings.max_rows, make_id=_new_id)
            call.version = version
            if call.at is not None and not self.settings.allow_at:
                raise InvalidError("this server answers for now; the parameter 'at' is refused (serving.allow_at=true allows it)")
            answers, logged = await endpoint.submit(call)
            body = protocol.answer(call, endpoint.scorer.service.name, answers, logged or "degraded")
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            status, body = failure(error)
            counts.errors[status] += 1
        http.response_bytes(status, CLOSING if self.stopping else JSON, body)
        self.in_flight -= 1
        counts.latency.observe(perf_counter() - started)

    def _authorise(self, scope: Any, action: Action) -> None:
        if self._tokens is None:
            return
        header = scope.headers.get("authorization") or ""
        known = self._access.get(header)
        now = self._clock.now_us()
        if known is None or known[1] < now:
            self._access.pop(header, None)
            access = self._tokens.verify(header[7:].strip()) if header[:7].lower() == "bearer " else None
            if access is None:
                raise UnauthorisedError("a token is needed: send 'Authorization: Bearer TOKEN' (tidemill up showed one at its first start)")
            if len(self._access) > 1000:
                self._access.clear()
            known = self._access[header] = (access, now + 2 * SECOND_US)
        known[0].require(action)

    async def _other(self, scope: Any, http: Http) -> _Reply:
        path = scope.path.rstrip("/") or "/"
        page = self._pages.get(path)
        if page is not None:
            if scope.method not in ("GET", "HEAD"):
                raise MethodError(f"{path} is read with GET")
            if path not in _OPEN:
                self._authorise(scope, "read")
            return page()
        match = _MODEL.fullmatch(path)
        if match is None:
            raise NotFoundError(f"nothing is at {path}; the Open Inference Protocol is under /v2, metrics under /metrics")
        return await self._model(scope, http, *match.groups())

    async def _model(self, scope: Any, http: Http, repository: str | None, name: str, version: str | None, verb: str | None) -> _Reply:
        writes = verb in ("infer", "load")
        if scope.method != ("POST" if writes else "GET"):
            raise MethodError(f"{scope.path} takes {'POST' if writes else 'GET'}")
        if bool(repository) != (verb == "load") or (verb == "load" and version is not None):
            raise NotFoundError(f"nothing is at {scope.path}")
        self._authorise(scope, "predict" if verb == "infer" else "deploy" if verb == "load" else "read")
        if name not in self.endpoints:
            raise not_found("model", name, self.endpoints)
        endpoint = self.endpoints[name]
        number = _version(endpoint, version)
        if verb == "infer":
            await self._infer(scope, http, endpoint, number)
            return 200, JSON, b""
        if verb == "load":
            done = await asyncio.get_running_loop().run_in_executor(None, self._refresh, endpoint)
            return _json({"changed": done}) if isinstance(done, bool) else _json({"error": done}, 409)
        if verb == "ready":
            ready = endpoint.scorer.lineup.live is not None
            return _json({"name": name, "ready": ready}, 200 if ready else 503)
        return _json(self._metadata(endpoint, number))

    def _metadata(self, endpoint: Endpoint, version: int | None) -> dict[str, Any]:
        lineup = endpoint.scorer.lineup
        texts = frozenset(name for model in lineup.models.values() for name in model.texts)
        versions = [version] if version is not None else [d.version for d in lineup.deployments]
        return protocol.metadata(endpoint.scorer.plan, versions, texts)

    # pages

    def _about(self) -> _Reply:
        return _json({"name": "tidemill", "version": installed("tidemill"), "extensions": ["model_repository"]})

    @property
    def degraded(self) -> bool:
        """Whether predictions are answered without being durably logged."""
        return any(writer.degraded for writer in self.writers)

    def _ready(self) -> _Reply:
        ready = not self.stopping and all(e.scorer.lineup.live is not None for e in self.endpoints.values())
        return _json({"ready": ready}, 200 if ready else 503)

    def _health(self) -> _Reply:
        services = {
            name: {
                "serves": [{"version": d.version, "role": d.role, "weight": d.weight} for d in e.scorer.lineup.deployments],
                "problem": e.problem or None,
                "refused": dict(e.scorer.lineup.failures),
            }
            for name, e in self.endpoints.items()
        }
        reasons = [writer.reason for writer in self.writers if writer.degraded]
        ready = not self.stopping and all(s["serves"] for s in services.values())
        logging_state = {"state": "degraded" if reasons else "ok", "reasons": reasons, "waiting": sum(w.backlog for w in self.writers)}
        return _json({"live": True, "ready": ready, "logging": logging_state, "services": services})

    def _metrics(self) -> _Reply:
        serves = {
            f'service="{name}",version="{d.version}",role="{d.role}"': d.weight
            for name, e in self.endpoints.items()
            for d in e.scorer.lineup.deployments
        }
        shadows = list(self.shadows.values())
        gauges: dict[str, dict[str, Any]] = {
            "deployment_weight": serves,
            "log_degraded": {"": int(self.degraded)},
            "log_backlog_rows": {"": sum(w.backlog for w in self.writers)},
            "log_lost_total": {"": sum(w.lost for w in self.writers)},
            "shadow_dropped_total": {"": sum(s.dropped for s in shadows)},
            "shadow_failed_total": {"": sum(s.failed for s in shadows)},
            "shadow_scored_total": {"": sum(s.scored for s in shadows)},
            "in_flight": {"": self.in_flight},
        }
        return 200, TEXT, metrics.render({n: e.metrics for n, e in self.endpoints.items()}, gauges).encode()


def build_app(scorers: Mapping[str, Scorer], tokens: Tokens | None, *, clock: Clock, settings: Settings | None = None) -> ModelServer:
    """The RSGI application that serves each scorer under its service's name.

    Args:
        scorers: by service name.
        tokens: who may ask; None asks for no token (only for a server that nobody else can reach).
        clock: when a request is answered.
        settings: limits and intervals.
    """
    return ModelServer(scorers, tokens, clock=clock, settings=settings or Settings())


def _new_id() -> str:
    return ids.random_id("p")


def _tell(tells: Sequence[Callable[[bool], None]], logged: bool) -> None:
    for tell in tells:
        tell(logged)


def _version(endpoint: Endpoint, text: str | None) -> int | None:
    if text is None:
        return None
    deployed = [str(d.version) for d in endpoint.scorer.lineup.deployments]
    if text not in deployed:
        raise not_found(f"deployed version of {endpoint.scorer.service.name}", text, deployed)
    return int(text)


def _json(value: Any, status: int = 200) -> _Reply:
    return status, JSON, msgspec.json.encode(value)

"""The routes of Feast's feature server, for the model server to mount."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from importlib.metadata import version as installed
from time import perf_counter
from typing import Any, TypeVar

import msgspec

from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.serving.admission import TIMEOUT_HEADER, limit, seconds_given, within
from tidemill.serving.feast.answer import Asked, OnlineRequest, Reader
from tidemill.serving.feast.compile import MissingError
from tidemill.serving.feast.push import Pusher, PushRequest, WriteRequest
from tidemill.serving.http import CLOSING, JSON, Bodies, Http, MethodError, Settings, failure, told_to
from tidemill.serving.metrics import ServiceMetrics
from tidemill.serving.tokens import Action

T = TypeVar("T")
Authorise = Callable[[Any, Action], object]
_decode_online = msgspec.json.Decoder(OnlineRequest).decode
_decode_push = msgspec.json.Decoder(PushRequest).decode
_decode_write = msgspec.json.Decoder(WriteRequest).decode


class FeatureRoutes:
    """Answers the paths in `at`. `bind` gives it an event loop's threads; large requests are answered there."""

    def __init__(self, reader: Reader, pusher: Pusher | None, *, clock: Clock, settings: Settings) -> None:
        self._reader = reader
        self._pusher = pusher
        self._clock = clock
        self._settings = settings
        self.bodies = Bodies(self._settings.max_body_bytes, self._settings.body_s)
        self._threads: Executor | None = None
        self._waiting: dict[int, list[tuple[Asked, asyncio.Future[bytes]]]] = {}
        self.metrics = ServiceMetrics()
        self.at: dict[str, Callable[[Any, Http, Authorise], Awaitable[bytes]]] = {
            "/get-online-features": self._online,
            "/push": self._push,
            "/write-to-online-store": self._write,
            "/materialize": self._nothing,
            "/materialize-incremental": self._nothing,
            "/health": self._health,
            "/openapi.json": self._openapi,
        }

    def bind(self, threads: Executor) -> None:
        """Use these threads for large requests and for what waits for a disk."""
        self._threads = threads

    async def answer(self, scope: Any, http: Http, authorise: Authorise, *, closing: bool) -> None:
        """Answer one request of a path in `at`."""
        started = perf_counter()
        self.metrics.requests += 1
        status, headers = 200, CLOSING if closing else JSON
        try:
            body = await self.at[scope.path](scope, http, authorise)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes an answer
            status, body = failure(error)
            headers = [*headers, *told_to(error, status)]
            if isinstance(error, MissingError):
                body = _detail(error)
            self.metrics.errors[status] += 1
        http.response_bytes(status, headers, body)
        self.metrics.latency.observe(perf_counter() - started)

    @staticmethod
    def exposition(metrics: ServiceMetrics) -> str:
        """What was answered, in Prometheus text format."""
        name = "tidemill_features"
        lines = [f"# HELP {name}_requests_total requests to the feature server's routes", f"# TYPE {name}_requests_total counter"]
        lines += [f"{name}_requests_total {metrics.requests}", f"# TYPE {name}_errors_total counter"]
        lines += [f'{name}_errors_total{{status="{status}"}} {n}' for status, n in sorted(metrics.errors.items())]
        lines += [f"# TYPE {name}_latency_seconds histogram", *metrics.latency.lines(f"{name}_latency_seconds", 'server="features"')]
        return "\n".join(lines) + "\n"

    async def _online(self, scope: Any, http: Http, authorise: Authorise) -> bytes:
        started = perf_counter()
        authorise(scope, "predict")
        seconds = seconds_given(scope.headers.get(TIMEOUT_HEADER), None, self._settings.timeout_s)
        request = _read(_decode_online, await self._body(scope, http))
        rows = len(next(iter(request.entities.values()), ()))
        if rows > self._settings.inline_rows:
            return await within(lambda: self._in_thread(self._reader.answer, request, self._clock.now_us()), seconds, started)
        answering = self._together(self._reader.understood(request))
        limit(answering, seconds, started)
        return await answering

    def _together(self, asked: Asked) -> asyncio.Future[bytes]:
        """Answer with all requests that come in the same turn of the event loop: those of one plan by one look-up; a lone one does not wait."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.setdefault(id(asked.plan), []).append((asked, future))
        return future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        now = self._clock.now_us()
        for several in waiting.values():
            group = [one for one in several if not one[1].done()]  # whose time is not up
            if not group:
                continue
            for (_, future), answer in zip(group, self._reader.answer_together([asked for asked, _ in group], now), strict=True):
                if isinstance(answer, bytes):
                    future.set_result(answer)
                else:
                    future.set_exception(answer)

    async def _push(self, scope: Any, http: Http, authorise: Authorise) -> bytes:
        authorise(scope, "ingest")
        return await self._append(PushRequest, _read(_decode_push, await self._body(scope, http)))

    async def _write(self, scope: Any, http: Http, authorise: Authorise) -> bytes:
        authorise(scope, "ingest")
        return await self._append(WriteRequest, _read(_decode_write, await self._body(scope, http)))

    async def _append(self, kind: type, request: Any) -> bytes:
        if self._pusher is None:
            raise InvalidError("this server takes no pushes: its stack has no stream; set stack.stream")
        done = await self._in_thread(self._pusher.push if kind is PushRequest else self._pusher.write, request)
        self._reader.look()
        return msgspec.json.encode(done)

    async def _nothing(self, scope: Any, _http: Http, _authorise: Authorise) -> bytes:
        raise NotFoundError(
            f"nothing is at {scope.path}: `tidemill up` keeps online values equal to the published tables by itself; "
            "`tidemill features materialize` does it at once"
        )

    async def _health(self, scope: Any, _http: Http, _authorise: Authorise) -> bytes:
        if scope.method not in ("GET", "HEAD"):
            raise MethodError("/health is read with GET", ["GET"])
        return b""

    async def _openapi(self, scope: Any, _http: Http, _authorise: Authorise) -> bytes:
        if scope.method not in ("GET", "HEAD"):
            raise MethodError("/openapi.json is read with GET", ["GET"])
        return msgspec.json.encode(openapi())

    async def _body(self, scope: Any, http: Http) -> bytes:
        if scope.method != "POST":
            raise MethodError(f"{scope.path} takes POST", ["POST"])
        return await self.bodies.read(scope.headers.get("content-length"), http)

    def _in_thread(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise InvalidError(f"the request does not follow the protocol: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidError(f"the body is not JSON: {error} (NaN and Infinity are not JSON; send null for a missing value)") from error
    except UnicodeDecodeError as error:
        raise InvalidError(f"the body is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InvalidError("the body is nested too deep") from error


def _detail(error: MissingError) -> bytes:
    """What Feast's server sends for its own errors: a JSON text that holds JSON. Its SDK raises the class that is named."""
    detail = {"module": "feast.errors", "class": error.kind, "message": str(error)}
    return msgspec.json.encode(msgspec.json.encode(detail).decode())


ROUTES = (
    ("post", "/get-online-features", "Values of features for entities, by feature service or by name.", OnlineRequest),
    ("post", "/push", "Rows for a push source: durable, in online values at once, in the table when the loop has taken them.", PushRequest),
    ("post", "/write-to-online-store", "The same for the table of a feature view; what Feast's remote online store sends.", WriteRequest),
    ("get", "/health", "Whether the server answers; no token.", None),
)
"""Method, path, what it does, and the body it takes."""


def openapi() -> dict[str, Any]:
    """The routes as an OpenAPI description."""
    kinds = [body for *_, body in ROUTES if body is not None]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for method, path, told, body in ROUTES:
        operation: dict[str, Any] = {"description": told, "responses": {"200": {"description": "done"}}}
        if body is not None:
            schema = {"$ref": f"#/components/schemas/{body.__name__}"}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        if path != "/health":
            operation["security"] = [{"token": []}]
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidemill feature server", "version": installed("tidemill")},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }

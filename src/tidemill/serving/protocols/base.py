"""What a protocol is to the model server: routes, each from a request to an answer, and the shape of its errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tidemill.core.conditions import Condition
from tidemill.core.errors import InvalidError, NotFoundError, not_found
from tidemill.serving.admission import TIMEOUT_HEADER, limit, seconds_given, within
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import JSON, MethodError, Reply, Settings
from tidemill.serving.ports import Prediction
from tidemill.serving.protocol import Call
from tidemill.serving.tokens import Action
from tidemill.serving.tracing import Timed

ID = "tidemill-prediction-id"
"""Header: the id of a prediction, given by the caller or made by the server. Rows of one request have it with `/0`, `/1` …"""
_MAX_ID = 200
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scored:
    """An answered call."""

    call: Call
    answers: Sequence[Prediction]
    logged: bool | str

    @property
    def scores(self) -> list[float]:
        """One a row."""
        return [answer.score for answer in self.answers]

    def headers(self) -> list[tuple[str, str]]:
        """What the protocols of others have no place for, as headers. An id that is no header's text is left out."""
        first = self.answers[0]
        same = all(answer.version == first.version for answer in self.answers)
        told = [("tidemill-model-version", str(first.version) if same else "mixed"), ("tidemill-logged", str(self.logged).lower())]
        return [*told, (ID, self.call.id)] if self.call.id.isascii() and self.call.id.isprintable() else told


@dataclass(slots=True)
class Asked:
    """One HTTP request. `version` is the deployed one that the path names, or None; `names` are the other parts of the path.

    `started`: when it came, by `perf_counter`. `asked_as`: the prediction's id, once the request has been read.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    host: Host
    started: float
    found: Endpoint | None = None
    version: int | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    who: str = ""
    trace: Timed | None = None
    asked_as: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """The service that is asked."""
        if self.found is None:
            raise NotFoundError(f"{self.path} names no service")
        return self.found

    def header(self, name: str) -> str:
        """A header's value, or an empty text."""
        return self.headers.get(name) or ""

    def new_id(self) -> str:
        """The id that the caller gives in a header, or a new one."""
        return self.named(self.header(ID), f"the header {ID}")

    def named(self, given: str, where: str) -> str:
        """An id that the caller gives, or a new one."""
        if len(given) > _MAX_ID:
            raise InvalidError(f"{where} has {len(given)} characters; {_MAX_ID} at most")
        return given or self.host.make_id()

    async def score(self, call: Call) -> Scored:
        """Score a call as the path says: batched, routed and logged like every other one, and in the time that it may take."""
        call.version, call.trace, self.asked_as = self.version, self.trace, call.id
        self.host.check_time(call)
        seconds = self._seconds(call)
        answering = self.endpoint.submit(call)
        limit(answering, seconds, self.started)
        answers, logged = await answering
        return Scored(call, answers, logged or "degraded")

    async def in_thread(self, call: Call, function: Callable[..., T], *args: Any) -> T:
        """What a function answers about a call, in the time that the call may take."""
        loop = asyncio.get_running_loop()
        return await within(lambda: loop.run_in_executor(None, function, *args), self._seconds(call), self.started)

    def _seconds(self, call: Call) -> float:
        return seconds_given(self.headers.get(TIMEOUT_HEADER), call.parameters, self.host.settings.timeout_s)


Answer = Callable[[Asked], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request.

    Attributes:
        method: `GET` (and so HEAD) or `POST`.
        pattern: the path as documented, with `{names}`; `{service}` and `{version}` are looked up, others are texts.
        answer: from the request to the answer.
        told: what it does, for the reference and the OpenAPI description.
        action: what a token must allow; None asks for no token.
        service: whose route it is when the path does not name a service.
        is_open: whether a platform in front has checked who asks, so that no token is wanted although `action` is done.
        takes: JSON schemas of the body by content type, empty when there is none.
    """

    method: str
    pattern: str
    answer: Answer
    told: str
    action: Action | None = "read"
    service: str | None = None
    takes: Mapping[str, Any] = field(default_factory=dict)
    is_open: bool = False

    def regex(self) -> re.Pattern[str]:
        """What a path has to look like."""
        parts = re.split(r"\{(\w+)\}", self.pattern)
        return re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/:]+)" for i, p in enumerate(parts)))


class HttpProtocol(Protocol):
    """One of the field's protocols. Each module of this package has one."""

    name: str
    """As people call it."""
    paths: str
    """Where it is, for the support matrix."""

    def routes(self, host: Host, /) -> Sequence[Route]:
        """What it answers for the services of a server."""
        ...

    def failure(self, status: int, reason: str) -> Reply:
        """Its error shape."""
        ...


Feedback = Callable[[str, Mapping[str, float], str], int]
"""States labels of predictions: service, values by prediction id, and who says so; answers how many statements were new."""


@dataclass(frozen=True, slots=True)
class Host:
    """The server, as protocols see it."""

    endpoints: Mapping[str, Endpoint]
    settings: Settings
    ready: Callable[[], bool]
    load: Callable[[Endpoint], Awaitable[bool | str]]
    unload: Callable[[Endpoint], None]
    make_id: Callable[[], str]
    feedback: Feedback | None = None
    conditions: Callable[[], Sequence[Condition]] = tuple

    @property
    def only(self) -> Endpoint | None:
        """The service, when there is one alone."""
        return next(iter(self.endpoints.values())) if len(self.endpoints) == 1 else None

    def check_time(self, call: Call) -> None:
        """Raise `InvalidError` for a call at another time where that is not allowed."""
        if call.at is not None and not self.settings.allow_at:
            raise InvalidError("this server answers for now; the parameter 'at' is refused (serving.allow_at=true allows it)")

    def endpoint(self, name: str) -> Endpoint:
        """A service by its name. Raises `NotFoundError`."""
        if name not in self.endpoints:
            raise not_found("model", name, self.endpoints)
        return self.endpoints[name]


def deployed(endpoint: Endpoint, text: str | None) -> int | None:
    """The number of a deployed version; None for none. Raises `NotFoundError`."""
    if text is None:
        return None
    known = [str(d.version) for d in endpoint.scorer.lineup.deployments]
    if text not in known:
        raise not_found(f"deployed version of {endpoint.scorer.service.name}", text, known)
    return int(text)


@dataclass(frozen=True, slots=True)
class Found:
    """A route that a path leads to."""

    protocol: HttpProtocol
    route: Route
    names: Mapping[str, str | None]


class Router:
    """Which route a path leads to: one look-up for paths without names, else patterns of the same first part in turn."""

    def __init__(self, protocols: Sequence[HttpProtocol], host: Host) -> None:
        self._fixed: dict[str, dict[str, Found]] = {}
        self._named: dict[str, list[tuple[re.Pattern[str], str, HttpProtocol, Route]]] = {}
        self.routes: list[tuple[HttpProtocol, Route]] = [(p, route) for p in protocols for route in p.routes(host)]
        for protocol, route in self.routes:
            if "{" in route.pattern:
                self._named.setdefault(_first(route.pattern), []).append((route.regex(), route.method, protocol, route))
            else:
                self._fixed.setdefault(route.pattern, {}).setdefault(route.method, Found(protocol, route, {}))

    def find(self, method: str, path: str) -> Found:
        """The route. Raises `NotFoundError`, or `MethodError` when the path exists for another method."""
        wanted = "GET" if method == "HEAD" else method
        methods = dict(self._fixed.get(path, {}))
        if not methods:
            for regex, known, protocol, route in (*self._named.get(_first(path), ()), *self._named.get("", ())):
                match = regex.fullmatch(path)
                if match is not None:
                    methods.setdefault(known, Found(protocol, route, match.groupdict()))
        if not methods:
            raise NotFoundError(f"nothing is at {path}; /openapi.json lists what is, the Open Inference Protocol is under /v2")
        if wanted not in methods:
            raise MethodError(f"{path} takes {' and '.join(sorted(methods))}", sorted(methods))
        return methods[wanted]


def _first(path: str) -> str:
    part = path.split("/", 2)[1] if path.startswith("/") else ""
    return "" if "{" in part else part


def json_reply(body: bytes, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Reply:
    """An answer of JSON bytes with further headers."""
    return status, [*JSON, *headers], body

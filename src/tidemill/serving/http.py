"""Small HTTP things: limits, status codes of errors, and the JSON that carries them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import msgspec

from tidemill.core.errors import ConflictError, InvalidError, NotFoundError, RefusedError, TidemillError, UnavailableError
from tidemill.serving.admission import DeadlineError, RateError
from tidemill.serving.contracts import Contract
from tidemill.serving.node_errors import NodeError, ScoreError
from tidemill.serving.tls import Tls

logger = logging.getLogger(__name__)
JSON = [("content-type", "application/json")]
CLOSING = [*JSON, ("connection", "close")]
RETRY = ("retry-after", "1")
CHALLENGE = ("www-authenticate", 'Bearer realm="tidemill"')
LATER = frozenset({429, 503})
"""Statuses of requests that may be sent again."""
OPEN_METRICS = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")]
TEXT = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_DRAIN = 64 << 20
HEAD_S = 75.0
"""See `Settings.head_s`; of every server of ours."""
Reply = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body of an answer."""


class TooLargeError(InvalidError):
    """The body is larger than the server reads."""


class SlowBodyError(InvalidError):
    """The body did not come in time."""


class UnauthorisedError(RefusedError):
    """No token, or one that is not known."""


class UnsupportedError(InvalidError):
    """The body has a content type that is not read."""


class NotAcceptableError(InvalidError):
    """The caller accepts none of the content types that can be written."""


class MethodError(InvalidError):
    """The path exists, for other methods."""

    def __init__(self, reason: str, allowed: Sequence[str]) -> None:
        super().__init__(reason)
        self.allowed = (*allowed, "HEAD") if "GET" in allowed else tuple(allowed)


_STATUS: tuple[tuple[type[TidemillError], int], ...] = (
    (TooLargeError, 413),
    (SlowBodyError, 408),
    (UnauthorisedError, 401),
    (MethodError, 405),
    (NotAcceptableError, 406),
    (UnsupportedError, 415),
    (InvalidError, 400),
    (NotFoundError, 404),
    (RefusedError, 403),
    (ConflictError, 409),
    (RateError, 429),
    (DeadlineError, 504),
    (UnavailableError, 503),
    (NodeError, 500),
    (ScoreError, 500),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and intervals of the model server.

    Attributes:
        max_body_bytes: a larger body gets 413.
        body_s: a body that takes longer to come gets 408; until then it counts as in flight.
        head_s: a connection is closed whose next request's head is not whole by then: one that sends it slowly, or that nobody uses.
        max_rows: rows in one request.
        max_keys: keys in one request to the feature server.
        max_in_flight: requests that are answered at once; further ones get 503 at once, with the time to ask again.
        rate: predictions a second that one token may ask for, 0 for any number; further ones get 429.
        timeout_s: what takes longer gets 504, 0 for never; a request may ask for less.
        inline_rows: more rows than this are never scored together in one go, nor in the event loop, unless they come in one call.
        poll_s: how often deployments are looked at for a change.
        log_share: the share of predictions that the log keeps; an answer says when it is not among them.
        log_sync: whether an answer waits until what is logged survives a power cut; without, it says `written` instead of true.
        access_log: whether each prediction's id, status and time is told to the logger `tidemill.access`.
        log_timeout_s: when the log takes longer than this, the answer goes out as `degraded`.
        backlog_rows: predictions kept in memory while the log is degraded.
        shadow_rows: answered rows that may wait for their shadows before they are dropped.
        linger_s: how long a stopping server still takes requests, asking each client to close its connection.
        drain_s: how long a stopping server waits for requests in flight.
        allow_at: whether a request may say when it is answered (parameter `at`), for demonstrations on past data.
        contract: what a hosting platform asks of this process, or None.
        tls: the certificate to show, or None to speak without encryption.
        tls_look_s: how often its files are looked at for another one.
        tls_retire_s: how long connections are kept that were made with the one before, each until its next answer.
        origins: other sites whose pages may ask from a browser.
    """

    max_body_bytes: int = 8 << 20
    body_s: float = 60.0
    head_s: float = HEAD_S
    max_rows: int = 10_000
    max_keys: int = 50_000
    max_in_flight: int = 1_000
    rate: float = 0.0
    timeout_s: float = 0.0
    inline_rows: int = 256
    poll_s: float = 0.5
    log_share: float = 1.0
    log_sync: bool = True
    access_log: bool = False
    log_timeout_s: float = 5.0
    backlog_rows: int = 50_000
    shadow_rows: int = 10_000
    linger_s: float = 0.25
    drain_s: float = 15.0
    allow_at: bool = False
    contract: Contract | None = None
    tls: Tls | None = None
    tls_look_s: float = 5.0
    tls_retire_s: float = 30.0
    origins: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.max_in_flight < 1 or self.rate < 0 or self.timeout_s < 0:
            raise InvalidError("serving.max_in_flight is at least 1, serving.rate and serving.timeout are not below 0")


class Http(Protocol):
    """What we use of Granian's RSGI protocol object."""

    async def __call__(self) -> bytes:
        """The whole body."""
        ...

    def __aiter__(self) -> Any:
        """The body in pieces."""
        ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer."""
        ...


def problem(error: BaseException) -> tuple[int, str]:
    """Status and reason of an error. What was not raised on purpose is logged and told without its details."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status, str(error)
    logger.error("request.failed", exc_info=error)
    return 500, "the server failed on this request; its log says why"


def failure(error: BaseException) -> tuple[int, bytes]:
    """Status and JSON body for an error."""
    status, reason = problem(error)
    return status, msgspec.json.encode({"error": reason})


def headers_of(status: int, *, closing: bool = False) -> list[tuple[str, str]]:
    """Headers of a JSON answer; what was refused for now says when to ask again."""
    return [*(CLOSING if closing else JSON), *_hints(status)]


def told_to(error: BaseException, status: int) -> list[tuple[str, str]]:
    """Headers that an error of this status has to have, whatever the protocol."""
    if isinstance(error, MethodError):
        return [("allow", ", ".join(error.allowed))]
    if isinstance(error, SlowBodyError):
        return [("connection", "close")]
    return _hints(status)


def _hints(status: int) -> list[tuple[str, str]]:
    """What a status tells the caller to do next."""
    return [CHALLENGE] if status == 401 else [RETRY] if status in LATER else []


async def read_body(length: str | None, http: Http, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes. A larger one is read and forgotten up to 64 MiB, so that its sender sees the answer."""
    if length is not None and length.isdecimal() and int(length) <= limit:
        return await http()
    size, pieces = 0, []
    async for piece in http:
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        elif size > _DRAIN:
            break
    if size > limit:
        raise TooLargeError(f"the body has more than {limit} bytes, the limit of this server; send fewer rows at once")
    return b"".join(pieces)


class Bodies:
    """Bodies on their way, of at most `limit` bytes. Those that take longer than `seconds` are given up by `sweep`, which costs a request no timer."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._since: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()

    async def read(self, length: str | None, http: Http) -> bytes:
        """See `read_body`. Raises `SlowBodyError`."""
        task = asyncio.current_task()
        if task is None:
            return await read_body(length, http, self._limit)
        self._since[task] = perf_counter()
        try:
            return await read_body(length, http, self._limit)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise SlowBodyError(f"the body did not come within {self._seconds:g} s; send it at once, or fewer rows") from None
        finally:
            del self._since[task]
            self._late.discard(task)

    def sweep(self) -> None:
        """Give up what is too late by now."""
        until = perf_counter() - self._seconds
        for task in [task for task, since in self._since.items() if since < until and task not in self._late]:
            self._late.add(task)
            task.cancel()


def secret_of(authorization: str) -> str:
    """The token of an authorization header: a bearer token, or the password of basic access, for clients that know nothing else."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""

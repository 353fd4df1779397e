"""Which requests are taken: not more at once than can be answered, not more from one token than it may send, and none that is too late.

What is refused is refused before its body is read, so a server with too much to do goes on answering what it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, TypeVar

from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.instants import SECOND_US

TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
"""How long the caller waits, as Envoy (and so Istio and Knative) tells upstream servers: whole milliseconds."""
_NAMES = 1_000
_PRESSED_S = 1.0
T = TypeVar("T")


class OverloadedError(UnavailableError):
    """The server has as many requests in flight as it takes."""


class RateError(UnavailableError):
    """A token sends more requests than it may."""


class DeadlineError(UnavailableError):
    """The time that the caller, or the server's setting, gave the request has passed."""


class Pressure:
    """Whether requests were refused within the last second, because there are too many."""

    def __init__(self) -> None:
        self._until = 0.0

    def refused(self) -> None:
        """One was refused just now."""
        self._until = perf_counter() + _PRESSED_S

    @property
    def high(self) -> bool:
        """Whether that is so."""
        return perf_counter() < self._until


class Rates:
    """A bucket for each name that holds a second's requests and fills at `rate` a second."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate, self._clock = rate, clock
        self._full = max(1.0, rate)
        self._left: dict[str, tuple[float, int]] = {}

    def take(self, name: str) -> None:
        """Count one request. Raises `RateError` when the name's bucket is empty."""
        now = self._clock.now_us()
        left, at = self._left.get(name, (self._full, now))
        left = min(self._full, left + (now - at) * self._rate / SECOND_US)
        if left < 1:
            raise RateError(
                f"the token {name!r} sends more than {self._rate:g} requests a second (serving.rate); send fewer, or ask again later"
            )
        if len(self._left) >= _NAMES and name not in self._left:
            self._left.clear()
        self._left[name] = (left - 1, now)


def seconds_given(header: str | None, parameters: Mapping[str, Any] | None, setting_s: float) -> float:
    """How long a request may take, 0 for as long as it needs: the least of what its header, its parameter `timeout` and the server's setting say.

    Args:
        header: of `TIMEOUT_HEADER`, milliseconds.
        parameters: of the request; `timeout` is in microseconds, as in Triton's implementation of the protocol.
        setting_s: `Settings.timeout_s`.
    """
    if header is None and not parameters:
        return setting_s
    given = [setting_s] if setting_s else []
    if header is not None:
        given.append(_number(f"the header {TIMEOUT_HEADER}", header.isdecimal() and len(header) < 10 and int(header)) / 1_000)
    if parameters and "timeout" in parameters:
        value = parameters["timeout"]
        given.append(_number("the parameter 'timeout'", isinstance(value, int) and not isinstance(value, bool) and value) / 1_000_000)
    return min(given, default=0.0)


def limit(answering: asyncio.Future[Any], seconds: float, started: float) -> None:
    """Fail what has no answer when its time is up; an endpoint does not compute what failed before its turn.

    Args:
        answering: a future that somebody else completes, and looks first whether it is done.
        seconds: from `seconds_given`; 0 for no limit.
        started: `perf_counter` when the request came.
    """
    if not seconds:
        return

    def expire() -> None:
        if not answering.done():
            answering.set_exception(_late(seconds))

    left = seconds - (perf_counter() - started)
    if left <= 0:
        expire()
        return
    timer = asyncio.get_running_loop().call_later(left, expire)
    answering.add_done_callback(lambda _done: timer.cancel())


async def within(work: Callable[[], Awaitable[T]], seconds: float, started: float) -> T:
    """What `work` answers; it is not begun when its time is up, and cancelled when that comes. Raises `DeadlineError`."""
    if not seconds:
        return await work()
    left = seconds - (perf_counter() - started)
    if left <= 0:
        raise _late(seconds)
    timer = asyncio.timeout(left)
    try:
        async with timer:
            return await work()
    except TimeoutError as error:
        if timer.expired():
            raise _late(seconds) from error
        raise


def _late(seconds: float) -> DeadlineError:
    return DeadlineError(f"no answer within {seconds:g} s, which is how long the request may take")


def _number(what: str, value: int) -> int:
    if value <= 0:
        raise InvalidError(
            f"{what} says how long you wait: a whole number of {'milliseconds' if 'header' in what else 'microseconds'} above 0"
        )
    return value

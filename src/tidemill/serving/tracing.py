"""What a trace of a request is to the model server: a span for the request, and one for each part of it, with times measured here.

An adapter (`stack.traces`) makes spans of them and sends them away. Without one there is no tracer, and a request does nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Protocol

from tidemill.core.clock import Clock

Attributes = Mapping[str, str | int | float | bool]


class Trace(Protocol):
    """One request that is traced."""

    traceparent: str
    """Of the request's own span, as W3C's Trace Context writes it: what the answer carries, and what further calls hand on."""

    def part(self, name: str, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        """A finished part; nanoseconds since the epoch."""
        ...

    def end(self, end_ns: int, attributes: Attributes, *, failed: bool) -> None:
        """The request is answered."""
        ...


class Tracer(Protocol):
    """Decides which requests are traced, and sends spans away without ever blocking or failing one."""

    def begin(self, name: str, start_ns: int, headers: Mapping[str, str]) -> Trace | None:
        """Begin a trace, or go on with the caller's (its `traceparent` and `tracestate`); None when this one is not sampled."""
        ...

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        ...


class Timed:
    """A trace with a stopwatch: marks are given by `perf_counter_ns`, and become times of the clock."""

    __slots__ = ("_base_ns", "trace")

    def __init__(self, trace: Trace, base_ns: int) -> None:
        self.trace = trace
        self._base_ns = base_ns

    def part(self, name: str, start: int, end: int, **attributes: str | float | bool) -> None:
        """A finished part, from `start` to `end` of the stopwatch."""
        self.trace.part(name, self._base_ns + start, self._base_ns + end, attributes)

    def end(self, *, failed: bool, **attributes: str | float | bool) -> None:
        """The request is answered now."""
        self.trace.end(self._base_ns + perf_counter_ns(), attributes, failed=failed)


def begin(tracer: Tracer, clock: Clock, name: str, headers: Mapping[str, str]) -> Timed | None:
    """Begin a trace now, if this request is sampled."""
    now_ns, mark = clock.now_us() * 1000, perf_counter_ns()
    trace = tracer.begin(name, now_ns, {k: headers.get(k) or "" for k in ("traceparent", "tracestate")})
    return None if trace is None else Timed(trace, now_ns - mark)

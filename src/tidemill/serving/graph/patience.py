"""Calls that may take only so long: they are made in threads of their own, and whoever waits goes on without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidemill.core.instants import SECOND_US
from tidemill.serving.graph.threads import Threads

_MEMBERS = 8


class TooLate(Exception):  # noqa: N818 - an outcome, not an error of ours
    """A call took longer than it may."""


class Patience:
    """A few threads: a call that never returns keeps its thread, and the next ones wait for another.

    A thread cannot be stopped from outside, so what took too long still runs; its result is dropped. When all threads are stuck, calls are
    too late without having begun. `beside`: other threads, for the members of ensembles.
    """

    def __init__(self, threads: int = 4) -> None:
        self._threads = Threads(threads)
        self.beside = Threads(_MEMBERS)

    def call(self, timeout_us: int, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns or raises; without a timeout, in this thread. Raises `TooLate`."""
        if not timeout_us:
            return function(*args)
        future = self._threads.submit(function, *args)
        try:
            return future.result(timeout_us / SECOND_US)
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise  # the function's own
            future.cancel()
            raise TooLate from error

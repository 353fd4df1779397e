"""Calls that may take only so long: they are made in threads of their own, and whoever waits goes on without them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tidemill.core.instants import SECOND_US

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class TooLate(Exception):  # noqa: N818 - an outcome, not an error of ours
    """A call took longer than it may."""


class Patience:
    """A few threads that end with the process, whatever they are at: a call that never returns keeps its thread, and the next ones wait for another.

    A thread cannot be stopped from outside, so what took too long still runs; its result is dropped. When all threads are stuck, calls are
    too late without having begun.
    """

    def __init__(self, threads: int = 4) -> None:
        self._queue: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = threads

    def call(self, timeout_us: int, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns or raises; without a timeout, in this thread. Raises `TooLate`."""
        if not timeout_us:
            return function(*args)
        future: Future[Any] = Future()
        self._queue.put((future, function, args))
        self._begin()
        try:
            return future.result(timeout_us / SECOND_US)
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise  # the function's own
            future.cancel()
            raise TooLate from error

    def _begin(self) -> None:
        with self._lock:
            if not self._left:
                return
            self._left -= 1
        threading.Thread(target=self._run, name="tidemill-node", daemon=True).start()

    def _run(self) -> None:
        while True:
            future, function, args = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                future.set_exception(error)

"""Threads that end with the process, whatever they are at; and calls that are made at once in them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import perf_counter, thread_time
from typing import Any, NamedTuple

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]
_WORTH_S = 0.0005
_WEIGHT = 0.3


class Threads:
    """A few daemon threads, each begun when there is a call for it."""

    def __init__(self, threads: int) -> None:
        self._queue: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = threads

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have a function called by the next thread that is free."""
        future: Future[Any] = Future()
        self._queue.put((future, function, args))
        self._begin()
        return future

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


class _Spent(NamedTuple):
    """What a call took lately: by the clock, and of the processor."""

    wall: float = 0.0
    cpu: float = 0.0


class Together:
    """The same few calls, again and again: at once when that has turned out to save time, else one after another.

    It saves what they wait for others (a process apart, a service, a disk). What they compute themselves they would take from each other:
    the interpreter runs one thread at a time, and the processors have other requests to answer.
    """

    def __init__(self, threads: Threads, calls: int) -> None:
        self._threads = threads
        self._spent = [_Spent()] * calls

    @property
    def saves_s(self) -> float:
        """How much sooner all have answered when they are asked at once, as things were lately."""
        walls = [spent.wall for spent in self._spent]
        return sum(walls) - max(*walls, sum(spent.cpu for spent in self._spent))

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each of them returns. The first error, in their order, is raised; at once, when all have ended."""
        if self.saves_s < _WORTH_S:
            return [self._timed(i, call) for i, call in enumerate(calls)]
        begun = [self._threads.submit(self._timed, i, call) for i, call in enumerate(calls[1:], 1)]
        mine: Future[Any] = Future()
        _into(mine, self._timed, 0, calls[0])
        futures = [mine, *begun]
        for i in range(len(calls) - 1, 0, -1):
            if futures[i].cancel():  # nobody has begun with it: threads are busy, maybe with the very call that this one is part of
                futures[i] = Future()
                _into(futures[i], self._timed, i, calls[i])
        errors = [future.exception() for future in futures]
        if error := next((error for error in errors if error is not None), None):
            raise error
        return [future.result() for future in futures]

    def _timed(self, i: int, call: Callable[[], Any]) -> Any:
        wall, cpu = perf_counter(), thread_time()
        try:
            return call()
        finally:
            before = self._spent[i]
            self._spent[i] = _Spent(
                before.wall + (perf_counter() - wall - before.wall) * _WEIGHT, before.cpu + (thread_time() - cpu - before.cpu) * _WEIGHT
            )


def _into(future: Future[Any], function: Callable[..., Any], *args: Any) -> None:
    try:
        future.set_result(function(*args))
    except Exception as error:  # noqa: BLE001 - it is raised again where all have ended
        future.set_exception(error)

"""The thread that makes answers durable: whatever has come while it wrote is the next group, one fsync each.

What nobody waits for (comparisons by shadows) comes in thousands at a time. It goes along with what somebody waits for, a few rows with each
write, so that no answer is behind a long one.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import monotonic, sleep

from tidemill.serving.ports import Prediction, PredictionLog

Acknowledge = Callable[[list["Group"], bool], None]
_PIECE = 5_000
_ALONG, _SOONER = 64, 32
"""Rows that nobody waits for in one write; more, one of so many, when a lot of them wait."""
_COMPANY, _GATHER_S = 6, 0.0003
"""When so many rows shared a write, the next one is held back so long, that more share it: each costs the event loop its turn at the interpreter."""


class Group:
    """Predictions that are logged together. `tell` is for the acknowledger: whom to tell whether they are durable, None when nobody waits for that."""

    __slots__ = ("predictions", "tell")

    def __init__(self, predictions: list[Prediction], tell: Callable[[bool], None] | None = None) -> None:
        self.predictions = predictions
        self.tell = tell


class LogWriter:
    """Writes groups to a `PredictionLog` in their order, those that nobody waits for when there is room, and says of each whether it is durable.

    While the log does not take them (disk full …), answers go on: `degraded` is set, groups are told False at once, and up to
    `backlog_rows` predictions wait in memory. Every `probe_s` the log is tried again with what waits; from the first success on
    all is as before. What no longer fits is counted in `lost`.

    `told` gets the reason when the log stops taking predictions, and an empty text when it takes them again.

    With `at_once`, for a log that does not wait for its disk, `write` does it in the caller's thread.
    """

    def __init__(
        self,
        log: PredictionLog,
        acknowledge: Acknowledge,
        *,
        backlog_rows: int = 50_000,
        probe_s: float = 1.0,
        at_once: bool = False,
        told: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.degraded = False
        self.reason = ""
        self.lost = 0
        self._log = log
        self._acknowledge = acknowledge
        self._at_once = at_once
        self._told = told
        self._probe_s = probe_s
        self._probe_at = 0.0
        self._backlog: deque[Prediction] = deque(maxlen=backlog_rows)
        self._later: deque[Prediction] = deque()
        self._queue: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tidemill-prediction-log", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    def write(self, predictions: list[Prediction]) -> bool:
        """Write a group here and now; False when it has to be submitted instead."""
        if not self._at_once or self.degraded:
            return False
        try:
            self._log.append(predictions)
        except Exception:  # noqa: BLE001 - the writer's thread tries again, and keeps the reason
            return False
        return True

    def submit(self, group: Group) -> None:
        """Hand over a group; never blocks."""
        self._queue.put(group)

    def close(self) -> None:
        """Write what was handed over, then stop."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    @property
    def backlog(self) -> int:
        """Predictions that wait in memory for the log to recover."""
        return len(self._backlog)

    def _run(self) -> None:
        more = True
        while more:
            groups, more = self._take()
            along = self._along(everything=self.degraded or not more)
            if self.degraded:
                self._try_again(groups, along, last=not more)
            elif groups or along:
                self._write(groups, along)
                if sum(len(group.predictions) for group in groups) >= _COMPANY and more:
                    sleep(_GATHER_S)

    def _take(self) -> tuple[list[Group], bool]:
        """Everything that waits, and whether to go on after it. Blocks while there is nothing at all to do, but not past the next probe."""
        try:
            item = self._queue.get(block=not self._later, timeout=self._probe_s if self.degraded else None)
        except queue.Empty:
            return [], True
        groups: list[Group] = []
        while item is not None:
            if item.tell is None:
                self._later += item.predictions
            else:
                groups.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return groups, True
        return groups, False

    def _along(self, *, everything: bool) -> list[Prediction]:
        """What goes along with the next write of what nobody waits for."""
        waiting = len(self._later)
        rows = waiting if everything else min(waiting, max(_ALONG, waiting // _SOONER))
        return [self._later.popleft() for _ in range(rows)]

    def _write(self, groups: list[Group], along: list[Prediction]) -> None:
        if self._append([p for group in groups for p in group.predictions] + along):
            self._acknowledge(groups, True)
        else:
            self._keep(groups, along)

    def _keep(self, groups: list[Group], along: list[Prediction]) -> None:
        for predictions in (*(group.predictions for group in groups), along):
            for prediction in predictions:
                self.lost += len(self._backlog) == self._backlog.maxlen
                self._backlog.append(prediction)
        self._acknowledge(groups, False)

    def _try_again(self, groups: list[Group], along: list[Prediction], *, last: bool) -> None:
        self._keep(groups, along)
        if monotonic() < self._probe_at and not last:
            return
        while self._backlog:
            piece = list(islice(self._backlog, _PIECE))
            if not self._append(piece):
                return
            for _ in piece:
                self._backlog.popleft()
        self.degraded = False
        self._told("")

    def _append(self, predictions: list[Prediction]) -> bool:
        try:
            self._log.append(predictions)
        except Exception as error:  # noqa: BLE001 - the writer's thread must outlive whatever the log raises; the reason is kept
            self.degraded, self.reason = True, str(error)
            self._told(self.reason)
            self._probe_at = monotonic() + self._probe_s
            return False
        return True

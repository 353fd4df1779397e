"""The thread that scores comparisons after the answer is out, so that a shadow can neither slow nor fail it."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Sequence

from tidemill.serving.ports import Prediction
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.writer import Group, LogWriter

logger = logging.getLogger(__name__)
_Item = tuple[Scorer, Lineup, Sequence[Prediction]]


class Shadows:
    """A bounded queue of answered requests to be scored again. When it is full they are dropped and counted."""

    def __init__(self, writer: LogWriter, *, max_rows: int = 10_000) -> None:
        self.dropped = 0
        self.failed = 0
        self.scored = 0
        self._writer = writer
        self._max_rows = max_rows
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tidemill-shadow", daemon=True)

    def start(self) -> None:
        """Begin scoring, at a lower priority than the thread that answers."""
        self._thread.start()

    def submit(self, scorer: Scorer, lineup: Lineup, answers: Sequence[Prediction]) -> None:
        """Hand over answered requests; never blocks."""
        with self._lock:
            if self._waiting + len(answers) > self._max_rows:
                self.dropped += len(answers)
                return
            self._waiting += len(answers)
        self._queue.put((scorer, lineup, answers))

    def close(self) -> None:
        """Score what was handed over, then stop."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    def _run(self) -> None:
        _step_back()
        while (item := self._queue.get()) is not None:
            scorer, lineup, answers = item
            try:
                compared = scorer.compare(answers, lineup=lineup)
                self.scored += len(compared)
                self._writer.submit(Group(compared))
            except Exception as error:  # noqa: BLE001 - a shadow model may fail in any way and must not be noticed by callers
                self.failed += len(answers)
                logger.warning("shadow.failed", extra={"service": scorer.service.name, "reason": str(error)})
            with self._lock:
                self._waiting -= len(answers)


def _step_back() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    except (AttributeError, OSError):
        logger.debug("shadow.priority_unchanged")

"""The thread that scores comparisons after the answer is out, so that a shadow can neither slow nor fail it.

It works in turns, with pauses in which requests gather, so that neither the thread nor the log is woken for each. What was answered
together is scored together, so a shadow's times and failures count as those of the answers do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from time import sleep

from tidemill.serving.ports import Prediction
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.writer import Group, LogWriter

logger = logging.getLogger(__name__)
_Item = tuple[Scorer, Lineup, Sequence[Prediction]]
_PAUSE_S, _BREATH_S, _BREATH_GROUPS, _LOG_ROWS = 0.1, 0.0002, 4, 500
"""The pause between turns; that for whoever answers, after so many groups; the rows that are logged together."""


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
        self._arrived: deque[_Item] = deque()
        self._some = threading.Event()
        self._closing = threading.Event()
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
        self._arrived.append((scorer, lineup, answers))
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Score what was handed over, then stop."""
        self._closing.set()
        self._some.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        _step_back()
        while True:
            self._some.wait()
            closing = self._closing.wait(_PAUSE_S)
            self._some.clear()
            self._turn()
            if closing and not self._arrived:
                return

    def _turn(self) -> None:
        """Score what has come until now, and log it together."""
        compared: list[Prediction] = []
        for turn in range(len(self._arrived)):
            scorer, lineup, answers = self._arrived.popleft()
            compared += self._compared(scorer, lineup, answers)
            with self._lock:
                self._waiting -= len(answers)
            if len(compared) >= _LOG_ROWS:
                self._writer.submit(Group(compared))
                compared = []
            if turn % _BREATH_GROUPS == 0 and not self._closing.is_set():
                sleep(_BREATH_S)
        if compared:
            self._writer.submit(Group(compared))

    def _compared(self, scorer: Scorer, lineup: Lineup, answers: Sequence[Prediction]) -> list[Prediction]:
        try:
            compared = scorer.compare(answers, lineup=lineup)
        except Exception as error:  # noqa: BLE001 - a shadow model may fail in any way and must not be noticed by callers
            self.failed += len(answers)
            logger.warning("shadow.failed", extra={"service": scorer.service.name, "reason": str(error)})
            return []
        self.scored += len(compared)
        return compared


def _step_back() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    except (AttributeError, OSError):
        logger.debug("shadow.priority_unchanged")

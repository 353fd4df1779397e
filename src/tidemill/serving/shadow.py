"""Scoring comparisons after the answer is out, so that a shadow cannot fail it; and the thread for it, in a server that is not a process of its own.

A server process has it done by another one (see `mirror`). It works in turns, with pauses in which requests gather, and scores them together,
so that neither the thread nor the log is woken for each and the interpreter is held for a few microseconds a row. Together is what takes a
millisecond: a model for which that is one group scores groups as they were answered, so that a shadow's times say what they would be as an
answer's.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from time import sleep
from typing import Protocol

from tidemill.core.priority import NICE
from tidemill.serving.ports import Prediction
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.writer import Group, LogWriter

logger = logging.getLogger(__name__)
Item = tuple[Scorer, Lineup, Sequence[Prediction]]
_PAUSE_S, _BREATH_S = 0.1, 0.0002
"""Between turns, and between pieces of a turn, for whoever answers."""
_PIECE_S, _PIECE_ROWS = 0.001, 64


class Comparing(Protocol):
    """Scores what was answered again, by whoever is compared, after the answer."""

    dropped: int

    @property
    def failed(self) -> int:
        """Rows that a comparison failed at."""
        ...

    @property
    def scored(self) -> int:
        """Comparisons that were made."""
        ...

    @property
    def restarts(self) -> int:
        """How often whoever does it was started again."""
        ...

    def start(self) -> None:
        """Begin."""
        ...

    def submit(self, scorer: Scorer, lineup: Lineup, answers: Sequence[Prediction]) -> None:
        """Hand over answered requests; never blocks."""
        ...

    def close(self) -> None:
        """Score what was handed over, then stop."""
        ...


class Comparer:
    """Scores answered requests again, those together that one line-up answered."""

    def __init__(self) -> None:
        self.failed = 0
        self.scored = 0
        self._row_s = _PIECE_S

    def pieces(self, arrived: deque[Item], groups: int) -> Iterator[list[Item]]:
        """So many of the groups in their order: those together that one line-up answered and that take about `_PIECE_S`, one at least."""
        piece: list[Item] = []
        rows = 0
        for _ in range(groups):
            item = arrived.popleft()
            most = min(_PIECE_ROWS, _PIECE_S / self._row_s)
            if piece and (item[0] is not piece[0][0] or item[1] is not piece[0][1] or rows + len(item[2]) > most):
                yield piece
                piece, rows = [], 0
            piece.append(item)
            rows += len(item[2])
        if piece:
            yield piece

    def compared(self, piece: Sequence[Item]) -> list[Prediction]:
        """A piece scored again; each of its groups alone where that fails, so that no failure is counted but its own."""
        scorer, lineup, answers = piece[0]
        started = scorer.timer()
        try:
            if len(piece) == 1:
                compared = scorer.compare(answers, lineup=lineup)
            else:
                answers, tally = [answer for item in piece for answer in item[2]], scorer.tally.like()
                compared = scorer.compare(answers, lineup=lineup, tally=tally)
                scorer.tally.take(tally, len(piece))
        except Exception as error:  # noqa: BLE001 - a shadow model may fail in any way and must not be noticed by callers
            if len(piece) > 1:
                return [prediction for item in piece for prediction in self.compared([item])]
            self.failed += len(answers)
            logger.warning("shadow.failed", extra={"service": scorer.service.name, "reason": str(error)})
            return []
        self._row_s = (scorer.timer() - started) / 1e9 / max(1, len(answers))
        self.scored += len(compared)
        return compared


class Shadows(Comparer):
    """A bounded queue of answered requests to be scored again. When it is full they are dropped and counted."""

    def __init__(self, writer: LogWriter, *, max_rows: int = 10_000) -> None:
        super().__init__()
        self.dropped = self.restarts = 0
        self._writer = writer
        self._max_rows = max_rows
        self._waiting = 0
        self._lock = threading.Lock()
        self._arrived: deque[Item] = deque()
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
        for piece in self.pieces(self._arrived, len(self._arrived)):
            compared += self.compared(piece)
            with self._lock:
                self._waiting -= sum(len(answers) for _scorer, _lineup, answers in piece)
            if not self._closing.is_set():
                sleep(_BREATH_S)
        if compared:
            self._writer.submit(Group(compared))


def _step_back() -> None:
    if sys.platform != "linux":  # elsewhere the number of a thread may be another process's
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    except OSError:
        logger.debug("shadow.priority_unchanged")

"""The server's side of shadows in a process of their own: what was answered goes into memory that both share, and the process is looked after.

A thread in the server shares the interpreter with whoever answers, and waits with it for the processor. A process of the system's idle class
runs when nobody else wants to, and whoever wakes up to answer takes the processor from it at once. The answering thread pays for a row what it
takes to encode it and to copy it: about a microsecond, no call of the system, nobody woken.

The process runs while some line-up has someone to compare with, ends with this one, and comes back when it dies: what it had not finished it
finds again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic

import msgspec

from tidemill.core.priority import NICE
from tidemill.serving.ports import Prediction
from tidemill.serving.ring import Ring
from tidemill.serving.score import Lineup, Scorer

logger = logging.getLogger(__name__)
RING_BYTES = 16 << 20
_STEP_S, _GRACE_S, _CLOSE_S = 0.2, 60.0, 8.0
_SOONEST_S, _LATEST_S, _WELL_S = 0.2, 30.0, 30.0
"""The shortest and the longest pause before it is started again; after how long it was well."""
_CODE = f"""
import os, sys
os.nice({NICE})
from tidemill.serving.mirrored import main
main(sys.argv[1:])
"""
"""It is nicer before it imports anything, which takes a second of a processor; and not yet in the idle class, where that takes for ever on a full machine."""
_encode = msgspec.msgpack.Encoder().encode


def can_mirror() -> bool:
    """Whether this system lets a process inherit what another one has open."""
    return os.name == "posix"


class Mirror:
    """A `Comparing` that has it done by a process. Rows that do not fit are dropped and counted.

    Args:
        target: the factory of the server, which the process calls as well.
        wanted: whether there is someone to compare with.
        max_rows: answered rows that may wait.
        command: the process's; it gets target, file, size and rows as further arguments.
    """

    def __init__(
        self,
        target: str,
        wanted: Callable[[], bool],
        *,
        max_rows: int = 10_000,
        size: int = RING_BYTES,
        grace_s: float = _GRACE_S,
        command: Sequence[str] = (sys.executable, "-c", _CODE),
    ) -> None:
        self.dropped = self.restarts = 0
        self._unfit = 0
        self._target, self._wanted, self._grace_s, self._command = target, wanted, grace_s, command
        self._ring = Ring.made(size, max_rows)
        self._heads: dict[str, tuple[Lineup, bytes]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._start_at = 0.0
        self._pause_s = _SOONEST_S
        self._needed_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidemill-mirror", daemon=True)

    @property
    def scored(self) -> int:
        """Comparisons that were made."""
        return self._ring.scored

    @property
    def failed(self) -> int:
        """Rows that a comparison failed at."""
        return self._ring.failed + self._unfit

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Look after the process from now on."""
        self._thread.start()

    def submit(self, scorer: Scorer, lineup: Lineup, answers: Sequence[Prediction]) -> None:
        """Hand over answered requests: the event loop's alone."""
        name = scorer.service.name
        head = self._heads.get(name)
        if head is None or head[0] is not lineup:
            head = self._heads[name] = (lineup, b"\x93" + _encode(name) + _encode([d.id for d in lineup.deployments]))
        try:
            body = head[1] + _encode(answers)
        except (TypeError, ValueError, OverflowError):
            self._unfit += len(answers)  # the log says what cannot be kept of it
            return
        if not self._ring.put(body, len(answers)):
            self.dropped += len(answers)

    def close(self) -> None:
        """Have scored what was handed over, for some seconds at most, and end the process."""
        self._closing.set()
        self._thread.join()
        if self._process is None and self._ring.waiting:
            self._begin()
        if self._process is not None:
            self._end(self._process)
            self._process = None

    def _run(self) -> None:
        while not self._closing.wait(_STEP_S):
            try:
                self.look()
            except OSError as error:  # no process could be started, for now
                self._later()
                logger.warning("shadows.not_started", extra={"reason": str(error)})

    def look(self) -> None:
        """Start the process when it is wanted, again when it has died, and end it when it is not wanted for long."""
        now = monotonic()
        if self._wanted() or self._ring.waiting:
            self._needed_at = now
        process = self._process
        if process is not None and process.poll() is not None:
            if now - self._started_at > _WELL_S:
                self._pause_s = _SOONEST_S
            logger.error("shadows.ended", extra={"code": process.returncode, "waiting": self._ring.waiting})
            self._let_go(process)
            self._process = process = None
            self.restarts += 1
            self._later()
        if process is None:
            if self._needed_at == now >= self._start_at:
                self._begin()
        elif now - self._needed_at > self._grace_s:
            self._end(process)
            self._process = None

    def _later(self) -> None:
        self._start_at = monotonic() + self._pause_s
        self._pause_s = min(_LATEST_S, 2 * self._pause_s)

    def _begin(self) -> None:
        ring = self._ring
        command = [*self._command, self._target, str(ring.file), str(ring.size), str(ring.rows)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[ring.file])
        self._started_at = monotonic()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Its standard input is its life: where that ends, it finishes what is there and goes."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            logger.warning("shadows.cut", extra={"waiting": self._ring.waiting})
            process.kill()
        self._let_go(process)

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

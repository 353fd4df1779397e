"""The process that scores for shadows, as `tidemill.serving.mirror` starts it: `target file size rows`.

It makes the same server as its parent, without answering, and appends to the same prediction log. It looks at what was answered in turns, so
that rows gather and are scored together, and is through with rows only when their scores are logged; a row is logged once, whoever scores it again.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns

import msgspec

from tidemill.core.errors import TidemillError
from tidemill.core.priority import Share
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.plan import DegradedInputs
from tidemill.serving.ports import Prediction
from tidemill.serving.ring import Ring
from tidemill.serving.score import Lineup
from tidemill.serving.server import ModelServer
from tidemill.serving.shadow import Comparer, Item

logger = logging.getLogger(__name__)
PAUSE_S = 0.1
_LIFTED_S = 60.0
_TURN_ROWS, _TURN_S, _LAST_S, _TRIES = 2_000, 0.5, 6.0, 3
_decode = msgspec.msgpack.Decoder(tuple[str, list[str], list[Prediction]]).decode


class Mirrored:
    """Scores what is in a ring. `now_ns`: the clock of latencies."""

    def __init__(self, app: ModelServer, ring: Ring, *, now_ns: Callable[[], int] = perf_counter_ns, share: Share | None = None) -> None:
        self._app, self._ring, self._now_ns = app, ring, now_ns
        self._comparer = Comparer()
        self._share = share or Share("normal")
        self._used: dict[str, Endpoint] = {}
        self._looked_at = self._lifted_at = 0.0

    def run(self, ended: Callable[[float], bool]) -> None:
        """Score until `ended`, which waits so many seconds, says so; then what is left, for some seconds at most."""
        if self._ring.begin() > _TRIES:
            rows = self._ring.skip()
            self._ring.count(failed=rows)
            logger.error("shadows.skipped", extra={"rows": rows})
        self.turn()  # which loads the models
        self._share.begin()
        until = None
        while until is None or (self._ring.waiting and monotonic() < until):
            if until is None and ended(PAUSE_S):
                until = monotonic() + _LAST_S
            if not self.turn():
                time.sleep(PAUSE_S)
            self._look()
            self._step_back()
        self._app.watch.tell_counts()

    def turn(self) -> bool:
        """Score some of what is there; False when it cannot be logged for now."""
        began, (items, ends) = monotonic(), self._taken()
        compared: list[Prediction] = []
        through, failed = 0, self._comparer.failed
        for piece in self._comparer.pieces(items, len(items)):
            compared += self._comparer.compared(piece)
            through += len(piece)
            if monotonic() - began > _TURN_S:
                break
        return not through or self._logged(compared, ends[through - 1], self._comparer.failed - failed)

    def _taken(self) -> tuple[deque[Item], list[tuple[int, int]]]:
        """Some of what is there, and up to where in the ring each goes; what nobody here can score has failed."""
        items, ends = deque[Item](), list[tuple[int, int]]()
        rows, looked = 0, set[str]()
        for body, end, total in self._ring.frames():
            service, deployments, answers = _decode(body)
            endpoint = self._app.endpoints.get(service)  # the project may be another one by now
            lineup = None if endpoint is None else self._lineup(endpoint, deployments, looked)
            if endpoint is None or lineup is None or not lineup.deployments:
                self._ring.count(failed=len(answers))
                if ends:
                    ends[-1] = (end, total)
                else:
                    self._ring.done(end, total)
                continue
            items.append((endpoint.scorer, lineup, _whole(answers)))
            ends.append((end, total))
            rows += len(answers)
            if rows >= _TURN_ROWS:
                break
        return items, ends

    def _logged(self, compared: Sequence[Prediction], end: tuple[int, int], failed: int) -> bool:
        """Keep the scores and be through with their rows. When the log does not take them, they are made again."""
        by_log: dict[int, list[Prediction]] = {}
        for prediction in compared:
            by_log.setdefault(id(self._app.endpoints[prediction.service].scorer.log), []).append(prediction)
        try:
            for predictions in by_log.values():
                log = self._app.endpoints[predictions[0].service].scorer.log
                log.append(predictions, durable=False)  # the disk has one journal, and whoever answers waits for it
        except TidemillError as error:
            logger.warning("shadows.not_logged", extra={"reason": str(error)})
            return False
        self._ring.count(scored=len(compared), failed=failed)
        self._ring.done(*end)
        return True

    def _lineup(self, endpoint: Endpoint, deployments: Sequence[str], looked: set[str]) -> Lineup:
        """Who serves: asked anew, once a turn, when the server that answered has found others."""
        scorer = endpoint.scorer
        name = scorer.service.name
        if name not in self._used:
            self._used[name] = endpoint
            scorer.timer = self._now_ns
        if [d.id for d in scorer.lineup.deployments] != deployments and name not in looked:
            looked.add(name)
            self._app.watch.take_over(endpoint)
        return scorer.lineup

    def _look(self) -> None:
        """Take over changed deployments, and state what was counted."""
        if monotonic() - self._looked_at < self._app.settings.poll_s:
            return
        for endpoint in self._used.values():
            self._app.watch.take_over(endpoint)
        self._app.watch.tell_counts()
        self._looked_at = monotonic()

    def _step_back(self) -> None:
        """Into the idle class again, some time after it was lifted out of it."""
        if not self._share.lifted:
            self._lifted_at = monotonic()
        elif monotonic() - self._lifted_at > _LIFTED_S:
            self._share.ended()


def _whole(answers: list[Prediction]) -> list[Prediction]:
    """With what a degraded answer's inputs know about themselves."""
    return [msgspec.structs.replace(p, values=DegradedInputs.made(p.values, p.degraded)) if p.degraded else p for p in answers]


def running_ns() -> Callable[[], int]:
    """A clock that stands still while this thread waits for a processor: an answer's thread would not have waited. The usual one where the system does not tell."""
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        os.pread(file, 96, 0).split()[1]
    except (OSError, IndexError):
        return perf_counter_ns

    def now() -> int:
        waited = int(os.pread(file, 96, 0).split()[1])
        return perf_counter_ns() - waited

    return now


def _ended(seconds: float) -> bool:
    """Whether standard input ends within so many seconds."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(seconds * 1000))


def main(arguments: Sequence[str]) -> None:
    """Score until standard input ends."""
    from tidemill.serving.run import load

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # told to the group; the server first finishes what is in flight
    target, file, size, rows = arguments
    share = Share("idle", nice=0, what="shadows", advice="the machine is full, and what their process has no time for is dropped")
    Mirrored(load(target), Ring(int(file), int(size), int(rows)), now_ns=running_ns(), share=share).run(_ended)

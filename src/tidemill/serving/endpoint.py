"""One service behind the server: calls that meet are scored and logged together, a lone call does not wait.

The event loop also takes and refuses requests, so it scores only what takes less than a millisecond. What takes longer goes to a thread,
in pieces that do not keep the interpreter for long, two of them at a time; what comes meanwhile is in the pieces after them. While requests
are refused it is one less than there are processors, so that the event loop has one to refuse them with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import Any

from tidemill.core.clock import Clock
from tidemill.core.errors import TidemillError
from tidemill.core.instants import parse_instant
from tidemill.core.machine import processors
from tidemill.serving.admission import Pressure
from tidemill.serving.http import Settings
from tidemill.serving.metrics import ServiceMetrics
from tidemill.serving.ports import Prediction
from tidemill.serving.protocol import Call
from tidemill.serving.sampled import is_kept, said
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.shadow import Comparing
from tidemill.serving.writer import Group, LogWriter

Answered = tuple[Sequence[Prediction], bool | str]
Waiting = list[tuple[Call, "asyncio.Future[Answered]"]]
_INLINE_S, _PIECE_S = 0.001, 0.002
_MOST_AWAY = 2
_LEAST_ROWS, _FIXED_ROWS = 32, 8
"""Rows that go together however long they take; and how many rows' time a group takes whatever its size, for most models."""


@dataclass(slots=True)
class Outcome:
    """What became of one call: answers, or why not."""

    lineup: Lineup
    answers: Sequence[Prediction] = ()
    error: BaseException | None = None


class Endpoint:
    """Takes calls from the event loop. What arrives while a group is scored is in the next groups."""

    def __init__(self, scorer: Scorer, writer: LogWriter, shadows: Comparing, clock: Clock, settings: Settings) -> None:
        self.scorer = scorer
        self.metrics = ServiceMetrics()
        self.problem = ""
        self.tracing = False
        self.pressure = Pressure()
        self._writer = writer
        self.shadows = shadows
        self._clock = clock
        self._settings = settings
        self._waiting: deque[tuple[Call, asyncio.Future[Answered]]] = deque()
        self._due = False
        self._away, self._computed = 0, at_once(processors())
        self._row_s = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._threads: Executor

    def bind(self, loop: asyncio.AbstractEventLoop, threads: Executor) -> None:
        """Use this event loop, and these threads for large groups."""
        self._loop, self._threads = loop, threads

    def submit(self, call: Call, *, alone: bool = False) -> asyncio.Future[Answered]:
        """Answer a call; the result says whether it is logged. Fails with what `Scorer.respond` and `Plan.inputs` raise.

        One that is `alone` in the server has nobody to meet: it does not wait for the loop to come round.
        """
        future: asyncio.Future[Answered] = self._loop.create_future()
        self._waiting.append((call, future))
        if alone and not self._due and len(self._waiting) == 1:
            self._flush()
        else:
            self._go_on()
        return future

    @property
    def queued(self) -> int:
        """Rows that wait for their group."""
        return sum(len(call) for call, _ in self._waiting)

    def _flush(self) -> None:
        """Score the next piece, or have it scored; then the loop has its turn, and then the piece after it."""
        self._due = False
        whole = self.scorer.lineup.apart
        piece, rows = self._piece(whole)
        if not piece:
            return
        inline = not whole and rows <= self._settings.inline_rows and self._takes_s(rows) <= _INLINE_S
        if not inline and not whole and self._away >= self._most(piece):
            self._waiting.extendleft(reversed(piece))  # whoever is back first goes on here
            return
        self.metrics.batch.observe(rows)
        if inline:
            started = perf_counter()
            self._finish(piece, self._work([call for call, _future in piece]))
            self._learn(rows, perf_counter() - started)
        else:
            self._away += 1
            work = self._loop.run_in_executor(self._threads, self._later, piece)
            work.add_done_callback(self._back)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._due:
            self._due = True
            self._loop.call_soon(self._flush)

    def _piece(self, whole: bool) -> tuple[Waiting, int]:
        """The calls that are next, and their rows: those of about `_PIECE_S`, one call at least; with `whole`, all of them.

        Whose caller has gone, or whose deadline has passed, is not computed.
        """
        most = min(self._settings.inline_rows, max(_LEAST_ROWS, int(_PIECE_S / self._row_s) if self._row_s else 0))
        piece: Waiting = []
        rows, waiting = 0, self._waiting
        while waiting:
            one = waiting[0]
            if not one[1].done():
                if piece and not whole and rows + len(one[0]) > most:
                    break
                piece.append(one)
                rows += len(one[0])
            waiting.popleft()
        return piece, rows

    def _most(self, piece: Waiting) -> int:
        """Pieces that may be under way at once: one that looks up features waits for a store, and takes no processor meanwhile."""
        if not self.pressure.high:
            return _MOST_AWAY
        plan = self.scorer.plan
        looks_up = any(call.inputs is None and not plan.carries_inputs(call.requests[0]) for call, _future in piece)
        return _MOST_AWAY if looks_up else self._computed

    def _takes_s(self, rows: int) -> float:
        return self._row_s * (rows + _FIXED_ROWS)

    def _learn(self, rows: int, took_s: float) -> None:
        """Remember how long rows take, lately: a large group says more about it than a small one."""
        weight = min(0.5, (rows + _FIXED_ROWS) / 128)
        self._row_s += (took_s / (rows + _FIXED_ROWS) - self._row_s) * weight

    def _later(self, waiting: Waiting) -> tuple[Waiting, list[Outcome], float]:
        """The work of a piece that may have waited for its thread: what is too late by then is not computed either. And how long it took."""
        waiting = [one for one in waiting if not one[1].done()]
        started = perf_counter()
        return waiting, self._work([call for call, _future in waiting]) if waiting else [], perf_counter() - started

    def _back(self, done: asyncio.Future[tuple[Waiting, list[Outcome], float]]) -> None:
        """A thread has scored a piece."""
        self._away -= 1
        self._go_on()
        waiting, outcomes, took_s = done.result()
        if waiting:
            self._learn(sum(len(call) for call, _future in waiting), took_s)
            self._finish(waiting, outcomes)

    def _work(self, calls: Sequence[Call]) -> list[Outcome]:
        lineup = self.scorer.lineup
        try:
            return self._together(calls, lineup)
        except TidemillError as error:
            if len(calls) == 1:
                return [Outcome(lineup, error=error)]
            return [outcome for call in calls for outcome in self._work([call])]
        except Exception as error:  # noqa: BLE001 - a model library may raise anything; each caller gets a 500, the server goes on
            return [Outcome(lineup, error=error) for _ in calls]

    def _together(self, calls: Sequence[Call], lineup: Lineup) -> list[Outcome]:
        if len(calls) > 1 and any(call.version is not None or call.at is not None for call in calls):
            return [outcome for call in calls for outcome in self._work([call])]
        now = self._clock.now_us() if calls[0].at is None else parse_instant(calls[0].at)
        ids: list[str] = []
        requests: list[Mapping[str, Any]] = []
        inputs: list[tuple[Any, ...]] = []
        started = perf_counter_ns()
        wanted = [request for call in calls if call.inputs is None for request in call.requests]
        plan = self.scorer.plan_of(lineup, lineup.live)
        found = iter(plan.inputs(wanted, [now] * len(wanted)) if wanted else ())
        for call in calls:
            ids += call.ids
            if call.inputs is None:
                requests += map(plan.kept, call.requests)
                inputs += [next(found) for _ in call.ids]
            else:
                requests += call.requests
                inputs += call.inputs
        looked_up = perf_counter_ns()
        answers = self.scorer.respond(requests, inputs, ids, [now] * len(ids), lineup=lineup, version=calls[0].version)
        if self.tracing:
            _mark(calls, answers, started, looked_up)
        if len(calls) == len(answers):
            return [Outcome(lineup, [answer]) for answer in answers]
        out, start = [], 0
        for call in calls:
            out.append(Outcome(lineup, answers[start : start + len(call)]))
            start += len(call)
        return out

    def _finish(self, waiting: Waiting, outcomes: Sequence[Outcome]) -> None:
        """Fail those that failed; hand the others to the log, then to their callers, then to the shadows."""
        answered: list[tuple[asyncio.Future[Answered], Sequence[Prediction]]] = []
        group: list[Prediction] = []
        for (_call, future), outcome in zip(waiting, outcomes, strict=True):
            if outcome.error is not None:
                if not future.done():
                    future.set_exception(outcome.error)
                continue
            answered.append((future, outcome.answers))
            group += outcome.answers
        if not group:
            return

        handed_over, share, sync = perf_counter_ns(), self._settings.log_share, self._settings.log_sync

        def tell(logged: bool) -> None:
            if self.tracing:
                _mark_logged(waiting, handed_over, logged)
            for future, answers in answered:
                if not future.done():
                    future.set_result((answers, logged and said((a.id for a in answers), share, sync=sync)))

        self._log(group, tell)
        self._count(group)
        if len(outcomes[0].lineup.deployments) > 1:
            self._compare(outcomes[0].lineup, group)

    def _compare(self, lineup: Lineup, group: Sequence[Prediction]) -> None:
        """Hand what the log keeps to the shadows, when the answers are on their way."""
        share = self._settings.log_share
        kept = group if share >= 1 else [p for p in group if is_kept(p.id, share)]
        if kept:
            self._loop.call_soon(self.shadows.submit, self.scorer, lineup, kept)

    def _log(self, group: list[Prediction], tell: Callable[[bool], None]) -> None:
        """Log a group, and tell when it is or when that takes too long."""
        if self._writer.write(group):
            tell(True)
            return
        timer = self._loop.call_later(self._settings.log_timeout_s, tell, False)

        def told(logged: bool) -> None:
            timer.cancel()
            tell(logged)

        self._writer.submit(Group(group, told))

    def _count(self, group: Sequence[Prediction]) -> None:
        self.metrics.offer(group)
        kinds = {(p.version, p.role, p.degraded) for p in group}
        for kind in kinds:  # nearly always one
            rows = len(group) if len(kinds) == 1 else sum((p.version, p.role, p.degraded) == kind for p in group)
            version, role, degraded = kind
            self.metrics.predictions[version, role] += rows
            if degraded:
                self.metrics.degraded[degraded] += rows


def at_once(cores: int) -> int:
    """How many pieces are scored at once under pressure: one less than there are processors."""
    return max(1, min(_MOST_AWAY, cores - 1))


def _mark_logged(waiting: Waiting, since: int, logged: bool) -> None:
    """Tell each traced call how long the log took."""
    for call, _future in waiting:
        if call.trace is not None:
            call.trace.part("log", since, perf_counter_ns(), logged=logged)


def _mark(calls: Sequence[Call], answers: Sequence[Prediction], started: int, looked_up: int) -> None:
    """Tell each traced call when its group had its features and its scores."""
    scored, place = perf_counter_ns(), 0
    for call in calls:
        if call.trace is not None:
            first = answers[place]
            call.trace.part("features", started, looked_up, rows=len(answers), looked_up=call.inputs is None)
            call.trace.part("model", looked_up, scored, rows=len(answers), version=first.version, role=first.role)
        place += len(call)

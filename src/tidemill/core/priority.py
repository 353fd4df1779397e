"""How work that can wait shares the processors with serving: what `training.priority` means to the operating system.

`idle` is Linux's class for work that runs when nobody else wants to: whoever wakes up to answer a request takes the processor at once, where a
merely nicer process goes on for some milliseconds first. It keeps a few per cent of a busy processor, so a training on a machine that is always
full still ends, late. `Share` sees to it that this does not go on: it gives a training that hardly runs for a minute the priority
`low` until it has ended, or says that it may not (Linux lets only those leave the class who may lower their niceness). Shadows are treated alike.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)
Priority = Literal["idle", "low", "normal"]
NICE = 10
"""How much nicer than its parent a process of `low` and of `idle` is."""
LOOK_S = 5.0
LONG_S, LEAST = 60.0, 0.05
"""A training that runs for less than `LEAST` of the time in which it could run, `LONG_S` long, is starved."""
_TASKS = Path("/proc/self/task")


def step_back(priority: Priority, nice: int = NICE) -> None:
    """Give this process, and those that it starts from now on, a priority. Where there is no idle class it is as `low`, without either as `normal`."""
    if priority == "normal" or not hasattr(os, "nice"):
        return
    nicer = os.nice(nice)
    if sys.platform == "linux":  # there, both are a thread's, and libraries begin threads when they are imported
        for thread in _threads():
            _told(os.setpriority, os.PRIO_PROCESS, thread, nicer)
        if priority == "idle":
            _all_threads(os.SCHED_IDLE)


@dataclass(frozen=True, slots=True)
class Ran:
    """What the threads of a process have had of the processors, in seconds: `run` on one, `waited` for one."""

    run: float = 0.0
    waited: float = 0.0


class Share:
    """Gives this process its priority, and looks after what it gets of the processors when that is `idle`.

    Args:
        priority: from the settings.
        ran: says what the process has had until now; None where the system does not tell.
        lift: leaves the idle class. Raises `PermissionError` when it must not.
        back: goes into the idle class again.
        nice: how much nicer it becomes.
        what: whose it is, in the log.
        advice: what to do where it may not be lifted.
    """

    def __init__(
        self,
        priority: Priority,
        *,
        ran: Callable[[], Ran | None] | None = None,
        lift: Callable[[], None] | None = None,
        back: Callable[[], None] | None = None,
        nice: int = NICE,
        what: str = "training",
        advice: str = "set training.priority=low, or train when the machine has less to do",
    ) -> None:
        self.lifted = False
        self._priority = priority
        self._ran, self._lift, self._back = ran or _process_ran, lift or _lift, back or _back
        self._nice, self._what, self._advice = nice, what, advice
        self._before = Ran()
        self._starved_s = 0.0
        self._said = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Step back; and look every `LOOK_S`, from a thread."""
        step_back(self._priority, self._nice)
        if self._priority == "idle" and _TASKS.is_dir():
            self._before = self._ran() or Ran()
            threading.Thread(target=self._look_often, name="tidemill-share", daemon=True).start()

    def ended(self) -> None:
        """A training has ended, or there is none: what comes next begins as the settings say."""
        with self._lock:
            self._starved_s, self._said = 0.0, False
            if self.lifted:
                self.lifted = False
                self._back()

    def look(self, seconds: float) -> None:
        """Judge what the process got in the last `seconds`, and lift it when it has been starved for long."""
        now = self._ran()
        if now is None:
            return
        run, waited = (
            max(0.0, now.run - self._before.run),
            max(0.0, now.waited - self._before.waited),
        )  # threads end, and are not counted then
        self._before = now
        with self._lock:
            wanted = run + waited
            starved = wanted > seconds / 2 and run < LEAST * wanted
            self._starved_s = self._starved_s + seconds if starved else 0.0
            if self._starved_s >= LONG_S and not self.lifted and not self._said:
                self._raise(run / wanted)

    def _raise(self, share: float) -> None:
        facts = {"share": round(share, 4), "seconds": round(self._starved_s)}
        try:
            self._lift()
        except OSError:
            self._said = True
            logger.warning(f"{self._what}.starved: {self._advice}", extra=facts)
            return
        self.lifted = True
        logger.warning(f"{self._what}.lifted: it hardly ran; it has the priority low for now", extra=facts)

    def _look_often(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_S):
            self.look(LOOK_S)


def _process_ran() -> Ran | None:
    """From the kernel's counts for each thread: nanoseconds on a processor and in line for one."""
    if not _TASKS.is_dir():
        return None
    run = waited = 0
    for task in _TASKS.iterdir():
        try:
            on, line, _turns = (task / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue  # a thread that has just ended, or a kernel that does not count
        run, waited = run + int(on), waited + int(line)
    return Ran(run / 1e9, waited / 1e9) if run else None


def _lift() -> None:
    if sys.platform == "linux":
        _all_threads(os.SCHED_OTHER)


def _back() -> None:
    if sys.platform == "linux":
        _all_threads(os.SCHED_IDLE)


def _all_threads(policy: int) -> None:
    for thread in _threads():
        _told(os.sched_setscheduler, thread, policy, os.sched_param(0))


def _threads() -> list[int]:
    return [int(task.name) for task in _TASKS.iterdir()]


def _told(call: Callable[..., None], *args: Any) -> None:
    """Call it about a thread, which may have ended by now."""
    with suppress(ProcessLookupError):
        call(*args)

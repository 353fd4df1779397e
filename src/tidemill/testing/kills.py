"""kill -9 in the middle of work: what was reported before it must be there after it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Opened = TypeVar("Opened")
Report = Callable[[Any], None]


def until_killed(work: Callable[[Opened, Report], None], open_: Callable[[], Opened], *, reports: int = 5) -> list[Any]:
    """Run `work(open_(), report)`, which goes on for ever, in a process of its own; kill it in the middle of a turn.

    Which is: after so many reports and a part, by chance, of the time that the last turn took. Returns all that was reported. Both
    functions must be importable, or a `functools.partial` of such.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    worker = context.Process(target=_run, args=(work, open_, sending))
    worker.start()
    sending.close()
    told: list[Any] = []
    took_s = last = 0.0
    try:
        while len(told) < reports and receiving.poll(60):
            told.append(receiving.recv())
            took_s, last = time.monotonic() - last, time.monotonic()
        time.sleep(took_s * random.uniform(0.1, 0.9))
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(60)
        while receiving.poll(0):
            told.append(receiving.recv())
    except EOFError:
        worker.join(60)
    finally:
        receiving.close()
    assert worker.exitcode == -signal.SIGKILL, f"the work ended by itself: exit code {worker.exitcode} after {len(told)} reports"
    return told


def _run(work: Callable[[Any, Report], None], open_: Callable[[], Any], sending: Connection) -> None:
    work(open_(), sending.send)

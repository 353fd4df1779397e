"""kill -9 in the middle of work: what was reported before it must be there after it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Opened = TypeVar("Opened")
Report = Callable[[Any], None]


def until_killed(
    work: Callable[[Opened, Report], None], open_: Callable[[], Opened], *, reports: int = 20, then_ms: float = 0.0
) -> list[Any]:
    """Run `work(open_(), report)`, which goes on for ever, in a process of its own; kill it `then_ms` after it has reported so often.

    Returns all that it reported. Both functions must be importable, or a `functools.partial` of such.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    worker = context.Process(target=_run, args=(work, open_, sending))
    worker.start()
    sending.close()
    told: list[Any] = []
    try:
        while len(told) < reports and receiving.poll(60):
            told.append(receiving.recv())
        time.sleep(then_ms / 1000)
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

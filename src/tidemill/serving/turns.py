"""Short turns on the processor for threads that answer, so that they get it as soon as they have something to do.

A thread that wakes up for a request waits while another one, of a training or of a large piece of scoring, goes through its turn: some milliseconds on
a busy machine. Linux (from 6.12 on) lets a thread ask for shorter turns, and whoever wakes up with shorter ones goes first. It gets no more of the
processors for that, so it needs no right. Elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys

logger = logging.getLogger(__name__)
SHORT_NS = 100_000
"""The shortest that Linux knows."""
_SET = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""Number of the system call `sched_setattr`, which no library has a function for; by machine."""


class Attributes(ctypes.Structure):
    """The kernel's `struct sched_attr`, its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def short_turns() -> None:
    """Ask for short turns for this thread and those that it begins from now on."""
    _ask(SHORT_NS)


def usual_turns() -> None:
    """As long ones as everybody has, for a thread that works and is not waited for."""
    _ask(0)


def _ask(turn_ns: int) -> None:
    if sys.platform != "linux" or platform.machine() not in _SET or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = Attributes(size=ctypes.sizeof(Attributes), policy=os.SCHED_OTHER, nice=nice, runtime=turn_ns)
    system = ctypes.CDLL(None, use_errno=True)
    if system.syscall(ctypes.c_long(_SET[platform.machine()]), ctypes.c_int(0), ctypes.byref(wanted), ctypes.c_uint(0)):
        logger.debug("turns.unchanged: %s", os.strerror(ctypes.get_errno()))  # a sandbox that does not let it through

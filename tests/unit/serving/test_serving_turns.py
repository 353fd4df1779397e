"""Threads that answer ask for short turns on the processor, and change nothing else about themselves."""

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tidemill.serving.turns import SHORT_NS, Attributes, short_turns, usual_turns

_GET = {"x86_64": 315, "aarch64": 275, "riscv64": 275}
pytestmark = pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in _GET, reason="only Linux is asked")


def now() -> tuple[int, int, int]:
    """Class, niceness and turn (nanoseconds) of this thread."""
    found = Attributes()
    size = ctypes.sizeof(found)
    assert ctypes.CDLL(None).syscall(ctypes.c_long(_GET[platform.machine()]), 0, ctypes.byref(found), size, 0) == 0
    return found.policy, found.nice, found.runtime


def in_thread(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return that are made one after the other in a thread of their own."""
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.extend(call() for call in calls))
    thread.start()
    thread.join()
    return returned


def test_a_thread_has_short_turns_and_then_usual_ones_and_its_niceness_all_along() -> None:
    before, _, short, _, after = in_thread(now, short_turns, now, usual_turns, now)
    policy, nice, usual = now()
    assert before == (policy, nice, usual)
    assert short in ((policy, nice, SHORT_NS), before)  # Linux before 6.12 knows no turns
    assert after == before


def test_linux_gives_short_turns_from_6_12_on() -> None:
    if tuple(int(part) for part in platform.release().split(".")[:2]) < (6, 12):
        pytest.skip("an older kernel")
    assert in_thread(short_turns, now)[1][2] == SHORT_NS


def test_threads_begun_by_one_with_short_turns_have_them_too_until_they_ask_for_usual_ones() -> None:
    _, mine, child = in_thread(short_turns, now, lambda: in_thread(now, usual_turns, now))
    assert child[0] == mine
    assert child[2] == now()


def test_another_class_is_left_alone() -> None:
    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    _, before, _, after = in_thread(idle, now, short_turns, now)
    assert before == after

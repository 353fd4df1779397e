"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable


def until(what: str, condition: Callable[[], object], *, seconds: float, every_s: float = 0.01) -> None:
    """Return as soon as `condition` holds. Raises `AssertionError`, which says what was waited for, after pauses of `seconds` together."""
    for _ in range(round(seconds / every_s)):
        if condition():
            return
        time.sleep(every_s)
    raise AssertionError(f"waited {seconds:g} s for {what}")

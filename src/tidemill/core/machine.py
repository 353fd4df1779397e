"""What the machine gives this process."""

from __future__ import annotations

import os
from collections.abc import Callable

sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Makes the data of an open file durable; other systems than Linux have only the call that also waits for the file's times."""


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def near(host: str) -> str:
    """Where a server that listens at `host` is reached from its own machine, as a URL has it."""
    found = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison
    return f"[{found}]" if ":" in found else found

"""One process at a time, on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after whoever has it; the end of a process, however it comes, lets go of it."""
    with path.open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except ImportError:  # Windows has no such lock; `tidemill up` alone writes there
            pass
        yield

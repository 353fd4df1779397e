"""One process at a time, on one machine; and a secret that all of them share."""

from __future__ import annotations

import os
import secrets
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


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if nobody else does; gives False at once when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has no such lock: the ports of `tidemill up` still collide, and a run's steps are kept once
            pass
        except BlockingIOError:
            yield False
            return
        yield True


def secret_key(path: Path) -> bytes:
    """The 32 random bytes in a file that only its owner reads; made when it is not there. Two processes at once get the same."""
    if not path.exists():
        own = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(own, path)
        except FileExistsError:  # another process was first
            pass
        finally:
            own.unlink()
    return path.read_bytes()

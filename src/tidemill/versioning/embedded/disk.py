"""Files that must be on disk before the catalog points at them.

An fsync costs milliseconds, most of it waiting for the file system's journal, which syncs that run at the same time share. So files are
written first and synced together, just before the commit that needs them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_pending = threading.local()
_threads: dict[int, ThreadPoolExecutor] = {}


def local(location: str) -> Path:
    """The path of a location."""
    return Path(location.removeprefix("file://"))


def write(path: Path, data: bytes) -> None:
    """Write a file that nothing names yet; it is on disk after the next `sync` of this thread."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    written(path)


def written(path: Path) -> None:
    """Have `sync` take care of a file that somebody else wrote."""
    if not hasattr(_pending, "paths"):
        _pending.paths = set()
    _pending.paths |= {path, path.parent}


def sync() -> None:
    """Return when everything that this thread has written is on disk, names included."""
    paths: Iterable[Path] = getattr(_pending, "paths", ())
    _pending.paths = set()
    list(_pool().map(_sync, paths))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pool() -> ThreadPoolExecutor:
    """Threads of this process; a forked child has none of its parent's."""
    pool = _threads.get(os.getpid())
    if pool is None:
        pool = _threads[os.getpid()] = ThreadPoolExecutor(8, thread_name_prefix="fsync")
    return pool

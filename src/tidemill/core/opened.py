"""Whether the file of a SQLite database is still the one that was opened: a process that keeps it open for days has to ask.

A database file that is moved away stays readable and writable for whoever has it open, and what is written to it then is lost unless it
comes back. One that is cut off gives garbage, or, read through shared memory, ends the process by SIGBUS. So long-lived processes ask before
they read or write; asking is one `stat`.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

_MAGIC, _HEAD = b"SQLite format 3\x00", 100
_KEPT: dict[tuple[int, int], int] = {}
"""Descriptors that stay open, by device and inode: closing any of a file's gives back all locks that this process, so SQLite, has on it (POSIX)."""


class OpenedFile:
    """The file at `path` as it was when this was made. Raises `FileNotFoundError` when there is none."""

    def __init__(self, path: Path | str) -> None:
        self._path = os.fspath(path)
        there = os.stat(self._path)  # noqa: PTH116 - here and below: asked for each read, and Path takes twice as long
        self._known, self._size = (there.st_dev, there.st_ino), there.st_size

    def changed(self) -> bool:
        """Whether it is gone, another one, or shorter; then see `problem`, and open it anew when there is none."""
        try:
            there = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return True
        if (there.st_dev, there.st_ino) != self._known or there.st_size < self._size:
            return True
        self._size = there.st_size
        return False

    def problem(self) -> str:
        """Why what stands at the path cannot be opened, as the rest of a sentence; empty when it can."""
        try:
            head, size = _head(self._path)
        except OSError as error:
            return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        if len(head) < _HEAD or not head.startswith(_MAGIC):
            return "is no database any more"
        page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
        counted = head[24:28] == head[92:96]  # else an old library wrote last, and the number of pages says nothing
        return "is cut off" if counted and size < pages * (65_536 if page == 1 else page) else ""

    def forget(self) -> None:
        """Have it opened anew before the next use."""
        self._known = (-1, -1)


def _head(path: str) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    there = os.stat(path)  # noqa: PTH116
    file = _KEPT.get((there.st_dev, there.st_ino))
    if file is None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        there = os.fstat(file)
        _KEPT[there.st_dev, there.st_ino] = file
    return os.pread(file, _HEAD, 0), there.st_size


def connect_existing(path: Path | str, **more: Any) -> sqlite3.Connection:
    """Open a SQLite file without ever making one: an empty one in the place of what was moved away for a moment would take its log over."""
    db: sqlite3.Connection = sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, **more
    )
    return db

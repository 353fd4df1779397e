"""Predictions on their way: frames behind one another in files that only grow, so that a busy server makes a group durable with one short write.

A file (a segment) has one writer, which holds a lock on it for as long as it lives. A frame is its length and checksum (CRC-32) and then its
bytes; what a killed writer left half written is no frame. Readers take whole frames from where they stopped.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: a segment is never known to have lost its writer, so it stays
    fcntl = None  # type: ignore[assignment]

_HEAD = struct.Struct("<II")
SEGMENT_BYTES = 64 << 20
_SUFFIX = ".journal"


class Journal:
    """The writer's end. Not thread-safe; `folder` may have any number of writers, each with segments of its own.

    Without `sync`, what is written survives a killed process, and a power cut only when the system has got round to writing it.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, sync: bool = True) -> None:
        self._folder, self._limit, self._sync = folder, segment_bytes, sync
        self._file = -1
        self._size = 0

    def append(self, bodies: Sequence[bytes]) -> None:
        """Keep frames: with `sync` they survive a power cut when this returns. Raises `OSError`; then none of them is there."""
        if self._file < 0 or self._size >= self._limit:
            self.close()
            self._open()
        frames = b"".join(part for body in bodies for part in (_HEAD.pack(len(body), zlib.crc32(body)), body))
        try:
            written = 0
            while written < len(frames):
                written += os.write(self._file, memoryview(frames)[written:])
            if self._sync:
                os.fdatasync(self._file)
        except OSError:
            self._take_back()
            raise
        self._size += len(frames)

    def close(self) -> None:
        """Let go of the segment, so that a reader may remove it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        while self._file < 0:
            path = self._folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{_SUFFIX}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                self._file, self._size = file, 0
            else:  # whoever removes what has no writer came before the lock
                os.close(file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _take_back(self) -> None:
        """Cut off what was written of a frame; where that fails too, what comes next goes to another segment."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self.close()


def segments(folder: Path) -> list[Path]:
    """Segments in the order in which they were begun."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(_SUFFIX))
    except FileNotFoundError:
        return []


def frames(path: Path, start: int) -> Iterator[tuple[bytes, int]]:
    """Whole frames from a byte on, each with the byte behind it. Raises `FileNotFoundError`."""
    with path.open("rb") as file:
        file.seek(start)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            body = file.read(length)
            if not length or len(body) < length or zlib.crc32(body) != checksum:
                return
            start += _HEAD.size + length
            yield body, start


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a segment whose writer is through with it, or gone; gives False when it has one. Raises `FileNotFoundError`."""
    with path.open("rb") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield fcntl is not None
        except BlockingIOError:
            yield False

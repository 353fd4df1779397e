"""Predictions on their way: frames behind one another in files that only grow, so that a busy server makes a group durable with one short write.

A file (a segment) has one writer, which holds a lock on it for as long as it lives. A frame is its length and checksum (CRC-32) and then its
bytes; what a killed writer left half written is no frame, nor are zeros. Readers take whole frames from where they stopped.

Where a file does not grow, a sync writes data alone, no new length and no new blocks: about half of the time, on the disk and on the
processor. So a busy writer has its next segment filled with zeros beside, and moves on to it as soon as it is there.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tidemill.core.machine import sync_data

try:
    import fcntl
except ImportError:  # Windows: a segment is never known to have lost its writer, so it stays
    fcntl = None  # type: ignore[assignment]

_HEAD = struct.Struct("<II")
SEGMENT_BYTES = 64 << 20
_SUFFIX = ".journal"
_BUSY_BYTES, _AHEAD_BYTES = 1 << 20, 16 << 20
"""A writer that has written so much is busy; what is filled with zeros for it."""
_DURABLE: int = getattr(os, "RWF_DSYNC", 0)
"""Linux's flag of a write that is durable when it returns, 0 elsewhere."""
_STEP_BYTES, _STEP_PAUSE_S = 64 << 10, 0.005
"""Zeros are written in small steps with pauses, so that syncs of the writer do not wait for a long one: at most 12 MB/s, three times what 10,000 small requests need."""


class Journal:
    """The writer's end. Not thread-safe; `folder` may have any number of writers, each with segments of its own.

    Without `sync`, what is written survives a killed process, and a power cut only when the system has got round to writing it.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, sync: bool = True, busy_bytes: int = _BUSY_BYTES) -> None:
        self._folder, self._limit, self._sync, self._busy = folder, segment_bytes, sync, busy_bytes
        self._file = -1
        self._size = 0
        self._zeroed = 0
        self._next: Ahead | None = None

    def append(self, bodies: Sequence[bytes], *, durable: bool = True) -> None:
        """Keep frames: with `sync`, `durable` ones survive a power cut when this returns. Raises `OSError`; then none of them is there."""
        sync = self._sync and durable
        self._move_on(sync)
        frames = b"".join(part for body in bodies for part in (_HEAD.pack(len(body), zlib.crc32(body)), body))
        try:
            _write(self._file, frames, self._size, sync=sync)
        except OSError:
            self._take_back()
            raise
        self._size += len(frames)

    def _move_on(self, sync: bool) -> None:
        """Have a segment to write to: the one filled with zeros, if this one has none left and the other is there."""
        if sync and self._next is None and self._size >= self._busy:
            self._next = Ahead(self._folder)
        if self._next is not None and self._size >= self._zeroed and (file := self._next.take()) is not None:
            self._leave()
            self._file, self._size, self._zeroed, self._next = file, 0, _AHEAD_BYTES, None
        if self._file < 0 or self._size >= self._limit or not os.fstat(self._file).st_nlink:  # nobody would find a file that was removed
            self.close()  # with what may be under way: segments are read in the order in which they were begun
            self._file, self._size, self._zeroed = _open(self._folder)[0], 0, 0

    def close(self) -> None:
        """Let go of the segment, so that a reader may remove it."""
        self._leave()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _leave(self) -> None:
        if self._file >= 0:
            if self._zeroed:
                with suppress(OSError):
                    os.ftruncate(self._file, self._size)
            os.close(self._file)
            self._file = -1

    def _take_back(self) -> None:
        """Cut off what was written of a frame; where that fails too, what comes next goes to another segment."""
        try:
            os.ftruncate(self._file, self._size)
            self._zeroed = 0
        except OSError:
            self.close()


def _write(file: int, frames: bytes, at: int, *, sync: bool) -> None:
    """Write at a place of a file, with `sync` durably."""
    written = 0
    if _DURABLE:  # one call instead of two, between which another thread would have its turn at the interpreter
        while written < len(frames):
            written += os.pwritev(file, [memoryview(frames)[written:]], at + written, _DURABLE if sync else 0)
        return
    os.lseek(file, at, os.SEEK_SET)
    while written < len(frames):
        written += os.write(file, memoryview(frames)[written:])
    if sync:
        sync_data(file)


class Ahead:
    """A segment that a thread fills with zeros; until somebody takes it, it is one without frames. It holds the writer's lock from the start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._ready: tuple[int, Path] | None = None
        threading.Thread(target=self._run, name="tidemill-journal-ahead", daemon=True).start()

    def take(self) -> int | None:
        """The open file, once it is there."""
        with self._lock:
            ready, self._ready = self._ready, None
        return None if ready is None else ready[0]

    def cancel(self) -> None:
        """Nobody will take it."""
        with self._lock:
            self._cancelled.set()
            ready, self._ready = self._ready, None
        if ready is not None:
            _discard(*ready)

    def _run(self) -> None:
        try:
            made = _open(self._folder)
        except OSError:
            return  # the writer goes on where it is, and meets what is wrong with the disk by itself
        try:
            self._fill(made[1])
        except OSError:
            self._cancelled.set()
        with self._lock:
            if not self._cancelled.is_set():
                self._ready = made
                return
        _discard(*made)

    def _fill(self, path: Path) -> None:
        zeros = bytes(_STEP_BYTES)
        with path.open("r+b", buffering=0) as file:
            for _ in range(_AHEAD_BYTES // _STEP_BYTES):
                if self._cancelled.wait(_STEP_PAUSE_S):
                    return
                file.write(zeros)
                sync_data(file.fileno())


def _discard(file: int, path: Path) -> None:
    """Remove a segment that has no frames, before others may claim it."""
    path.unlink(missing_ok=True)
    os.close(file)


def _open(folder: Path) -> tuple[int, Path]:
    """A new segment, locked by whoever has its file open."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            break
        os.close(file)  # whoever removes what has no writer came before the lock
    above = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
    return file, path


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

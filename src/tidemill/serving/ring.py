"""Memory that two processes share, in which one puts frames behind one another and the other takes them: no call of the system for either.

The reader says what it is through with, so what a killed reader had not finished is there for the next one; and it looks when it likes, so
that it is never woken. A frame is its length, its checksum (CRC-32, for machines on which one processor sees another's writes in another order),
the number of rows up to its end, and its bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator

_HEAD = struct.Struct("<IIQ")
_COUNTS = 128
_WRITTEN, _READ, _ROWS_IN, _ROWS_OUT, _SCORED, _FAILED, _BEGUN_AT, _BEGUN = range(8)


class Ring:
    """One writer, one reader; each count has one of them that changes it. `rows`: more are not taken."""

    def __init__(self, file: int, size: int, rows: int) -> None:
        self.file, self.size, self.rows = file, size, rows
        self._memory = mmap.mmap(file, _COUNTS + size)
        view = memoryview(self._memory)
        self._counts, self._data = view[:_COUNTS].cast("Q"), view[_COUNTS:]

    @classmethod
    def made(cls, size: int, rows: int) -> Ring:
        """A new one, in memory that has no name. Raises `OSError`."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("tidemill-shadows")
        else:
            with tempfile.TemporaryFile() as opened:
                file = os.dup(opened.fileno())
        os.truncate(file, _COUNTS + size)
        return cls(file, size, rows)

    # the writer's

    def put(self, body: bytes, rows: int) -> bool:
        """Put a frame of so many rows; False when there is no room."""
        counts, start, size = self._counts, self._counts[_WRITTEN], _HEAD.size + len(body)
        if start + size - counts[_READ] > self.size or self.waiting + rows > self.rows:
            return False
        total = counts[_ROWS_IN] + rows
        frame = _HEAD.pack(len(body), zlib.crc32(body), total) + body
        place = start % self.size
        first = min(size, self.size - place)
        self._data[place : place + first] = frame[:first]
        if first < size:
            self._data[: size - first] = frame[first:]
        counts[_ROWS_IN] = total
        counts[_WRITTEN] = start + size
        return True

    # the reader's

    def frames(self) -> Iterator[tuple[bytes, int, int]]:
        """What is there now: bodies, where each ends, and how many rows there have been up to its end."""
        at, until = self._counts[_READ], self._counts[_WRITTEN]
        while at < until:
            length, checksum, rows = _HEAD.unpack(self._copy(at, _HEAD.size))
            body = self._copy(at + _HEAD.size, length) if length <= self.size else b""
            if zlib.crc32(body) != checksum:
                return  # it is not all here yet
            at += _HEAD.size + length
            yield body, at, rows

    def _copy(self, start: int, size: int) -> bytes:
        place = start % self.size
        first = min(size, self.size - place)
        return bytes(self._data[place : place + first]) + bytes(self._data[: size - first])

    def done(self, end: int, rows: int) -> None:
        """Everything up to here need not be kept; as `frames` said it."""
        self._counts[_READ], self._counts[_ROWS_OUT] = end, rows

    def begin(self) -> int:
        """A reader begins; which one it is at this very place, of those that got no further."""
        counts, at = self._counts, self._counts[_READ] + 1
        counts[_BEGUN] = counts[_BEGUN] + 1 if counts[_BEGUN_AT] == at else 1
        counts[_BEGUN_AT] = at
        return counts[_BEGUN]

    def skip(self) -> int:
        """Pass over what is there; how many rows that were."""
        end, rows = self._counts[_WRITTEN], self._counts[_ROWS_IN]
        passed = rows - self._counts[_ROWS_OUT]
        self.done(end, rows)
        return passed

    def count(self, *, scored: int = 0, failed: int = 0) -> None:
        """Say what became of rows."""
        self._counts[_SCORED] += scored
        self._counts[_FAILED] += failed

    # both

    @property
    def waiting(self) -> int:
        """Rows that the reader is not through with."""
        return max(0, self._counts[_ROWS_IN] - self._counts[_ROWS_OUT])

    @property
    def scored(self) -> int:
        """Rows that have a score."""
        return self._counts[_SCORED]

    @property
    def failed(self) -> int:
        """Rows that have none."""
        return self._counts[_FAILED]

    def close(self) -> None:
        """Let go of the memory."""
        self._counts.release()
        self._data.release()
        self._memory.close()
        os.close(self.file)

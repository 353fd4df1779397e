"""A durable append-only log per topic, in one file each.

A file is a row of frames, one per `append`: length, CRC-32, the number of records, when they were taken, and the records. A frame that
is cut short or damaged at the end was never acknowledged; the next append cuts it off. Appends of several threads share an fsync, those
of several processes take turns by a lock on the file.
"""

import fcntl
import os
import re
import struct
import threading
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.core.clock import Clock, WallClock
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.ingestion.ports import Extent, Record

_TOPIC = re.compile(r"[a-z][a-z0-9_-]{0,99}")
_FRAME = struct.Struct("<II")  # bytes of the payload, CRC-32 of it
_COUNT = struct.Struct("<I")
_TIME = struct.Struct("<q")
_TIMED = 1 << 31
"""Set in a frame's number of records when a time follows; frames of before have none."""
_LARGEST = 256 << 20


@dataclass(slots=True)
class _Topic:
    """What this process knows of a topic's file: where frames start, and the offset of their first record."""

    path: Path
    descriptor: int
    starts: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    end: int = 0
    count: int = 0
    synced: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    syncing: threading.Lock = field(default_factory=threading.Lock)


class LogStream:
    """A `Stream` in a folder: `<topic>.log`. A topic has one partition."""

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root, self._clock = Path(root), clock or WallClock()
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()

    def append(self, topic: str, bodies: Sequence[bytes]) -> int:
        held = self._topic(topic)
        taken = _COUNT.pack(len(bodies) | _TIMED) + _TIME.pack(self._clock.now_us())
        payload = taken + b"".join(_COUNT.pack(len(body)) + body for body in bodies)
        if len(payload) > _LARGEST:
            raise InvalidError(f"{len(payload)} bytes are too many for one append to {topic!r}; the limit is {_LARGEST}")
        try:
            with held.lock:
                fcntl.flock(held.descriptor, fcntl.LOCK_EX)
                try:
                    _catch_up(held)
                    if bodies:
                        self._write(held, _FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
                        _note(held, len(payload), len(bodies))
                    position, count = held.end, held.count
                finally:
                    fcntl.flock(held.descriptor, fcntl.LOCK_UN)
            _sync(held, position)
        except OSError as exc:
            raise UnavailableError(f"{held.path} cannot be written: {exc}; nothing was acknowledged, try again") from exc
        return count

    def read(self, topic: str, offset: int, *, limit: int = 10_000, partition: int = 0) -> list[Record]:
        if offset < 0:
            raise InvalidError(f"offsets start at 0, not {offset}")
        if partition:
            raise InvalidError(f"topic {topic!r} has one partition, 0; there is no {partition}")
        held = self._topic(topic)
        with held.lock:
            _catch_up(held)
            first, frames = max(bisect_right(held.offsets, offset) - 1, 0), len(held.starts)
        records: list[Record] = []
        for i in range(first, frames):
            number = held.offsets[i]
            at_us, bodies = _frame(held.descriptor, held.starts[i])
            chosen = bodies[max(0, offset - number) :][: limit - len(records)]
            number += max(0, offset - number)
            records += [Record(number + n, body, at_us) for n, body in enumerate(chosen)]
            if len(records) >= limit:
                break
        return records

    def extent(self, topic: str) -> list[Extent]:
        held = self._topic(topic)
        with held.lock:
            _catch_up(held)
            return [Extent(0, held.count)]

    def _topic(self, topic: str) -> _Topic:
        if not _TOPIC.fullmatch(topic):
            raise InvalidError(f"{topic!r} cannot name a topic: lower case letters, digits, '_' and '-', starting with a letter")
        with self._lock:
            if topic not in self._topics:
                self._root.mkdir(parents=True, exist_ok=True)
                path = self._root / f"{topic}.log"
                self._topics[topic] = _Topic(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
                _sync_folder(self._root)
            return self._topics[topic]

    def _write(self, held: _Topic, frame: bytes) -> None:
        """Write at the end of the good frames; what an interrupted writer left behind it goes first."""
        if os.fstat(held.descriptor).st_size > held.end:
            os.ftruncate(held.descriptor, held.end)
        done = 0
        while done < len(frame):
            done += os.pwrite(held.descriptor, frame[done:], held.end + done)


def _catch_up(held: _Topic) -> None:
    """Note the whole frames that others have added."""
    size = os.fstat(held.descriptor).st_size
    while held.end + _FRAME.size <= size:
        length, crc = _FRAME.unpack(os.pread(held.descriptor, _FRAME.size, held.end))
        if length < _COUNT.size or held.end + _FRAME.size + length > size:
            return
        payload = os.pread(held.descriptor, length, held.end + _FRAME.size)
        if zlib.crc32(payload) != crc:
            return
        _note(held, length, _COUNT.unpack_from(payload)[0] & ~_TIMED)


def _note(held: _Topic, length: int, records: int) -> None:
    held.starts.append(held.end)
    held.offsets.append(held.count)
    held.end += _FRAME.size + length
    held.count += records


def _sync(held: _Topic, position: int) -> None:
    """Wait until the file is on disk up to `position`; who finds that another has seen to it does nothing."""
    with held.syncing:
        if held.synced >= position:
            return
        reached = held.end
        os.fsync(held.descriptor)
        held.synced = reached


def _frame(descriptor: int, start: int) -> tuple[int, list[bytes]]:
    """When a frame's records were taken, and the records."""
    length, _ = _FRAME.unpack(os.pread(descriptor, _FRAME.size, start))
    payload = os.pread(descriptor, length, start + _FRAME.size)
    (count,) = _COUNT.unpack_from(payload)
    at, at_us = _COUNT.size, 0
    if count & _TIMED:
        (at_us,) = _TIME.unpack_from(payload, at)
        at += _TIME.size
    bodies = []
    for _ in range(count & ~_TIMED):
        (size,) = _COUNT.unpack_from(payload, at)
        bodies.append(payload[at + _COUNT.size : at + _COUNT.size + size])
        at += _COUNT.size + size
    return at_us, bodies


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

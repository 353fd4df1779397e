"""The writers' queue of a SQLite ledger: one writer at a time, and one fsync for all who wait for one.

SQLite lets writers that find the database busy sleep and try again, which starves some of them and ends in
"database is locked". Here a writer waits in the kernel for a lock on a file beside the database (`ledger.db-queue`), so it
is woken when it is its turn, and a killed writer's turn ends by itself.

Durability is group commit: transactions are committed to the write-ahead log without an fsync (`synchronous=NORMAL`),
and who needs to survive a power cut then syncs the log outside of the lock. The first to come syncs for everybody who has
committed by then; the queue file's two counters (commits, commits known to be on disk) tell the others that it is done.
Same promise as `synchronous=FULL`, which is one fsync of the log after each commit: SQLite itself syncs the log's header
when the log starts over, and the log before a checkpoint.
"""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

from tidemill.core.errors import InvalidError
from tidemill.core.machine import sync_data

try:
    import fcntl
except ImportError:  # Windows: SQLite's own waiting has to do, and every durable commit pays its own fsync
    fcntl = None  # type: ignore[assignment]

_COUNTER = struct.Struct("Q")
_COMMITS, _SYNCED = 0, 8
_QUEUES: dict[str, WriteQueue] = {}
_REGISTRY = threading.Lock()


def queue_for(database: Path) -> WriteQueue:
    """The one queue that this process has for a database."""
    key = str(database.resolve())
    with _REGISTRY:
        queue = _QUEUES.get(key)
        if queue is None or queue.pid != os.getpid() or not queue.is_there():
            queue = _QUEUES[key] = WriteQueue(database)
        return queue


class WriteQueue:
    """Turns at writing, over threads and processes."""

    def __init__(self, database: Path) -> None:
        self.pid = os.getpid()
        self._thread = threading.Lock()
        self._owner = 0
        self._sync_thread = threading.Lock()
        self._wal = Path(f"{database}-wal")
        self._wal_fd = -1
        self._turn_fd = self._sync_fd = -1
        self._name = Path(f"{database}-queue")
        if fcntl is not None:
            self._turn_fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._sync_fd = os.open(f"{database}-sync", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def groups(self) -> bool:
        """Whether `settle` makes commits durable; if not, the connection must use `synchronous=FULL`."""
        return self._turn_fd >= 0

    def enter(self) -> None:
        """Wait for the turn. Raises `InvalidError` in a thread that has it already."""
        me = threading.get_ident()
        if self._owner == me:
            raise InvalidError("this thread has a ledger transaction open; write with its connection instead of a second one")
        self._thread.acquire()
        try:
            if self._turn_fd >= 0:
                fcntl.flock(self._turn_fd, fcntl.LOCK_EX)
        except BaseException:
            self._thread.release()
            raise
        self._owner = me

    def leave(self, *, committed: bool) -> int:
        """End the turn; return the number of this commit, to `settle` with."""
        number = 0
        try:
            if self._turn_fd >= 0:
                if committed:
                    number = self._read(_COMMITS) + 1
                    self._note(_COMMITS, number)
                fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
        finally:
            self._owner = 0
            self._thread.release()
        return number

    def settle(self, number: int) -> None:
        """Return when commit `number` would survive a power cut."""
        if self._turn_fd < 0 or self._read(_SYNCED) >= number:
            return
        with self._sync_thread:
            fcntl.flock(self._sync_fd, fcntl.LOCK_EX)
            try:
                if self._read(_SYNCED) < number:
                    upto = self._read(_COMMITS)
                    sync_data(self._log())
                    self._note(_SYNCED, upto)
            finally:
                fcntl.flock(self._sync_fd, fcntl.LOCK_UN)

    # read and written as a file: a mapping of one that is cut off, or of a full disk, ends the process by SIGBUS

    def _read(self, at: int) -> int:
        there = os.pread(self._turn_fd, _COUNTER.size, at)
        return int(_COUNTER.unpack(there)[0]) if len(there) == _COUNTER.size else 0

    def _note(self, at: int, value: int) -> None:
        os.pwrite(self._turn_fd, _COUNTER.pack(value), at)

    def is_there(self) -> bool:
        """Whether the queue's file is still the one that others find."""
        if self._turn_fd < 0:
            return True
        try:
            there = self._name.stat()
        except OSError:
            return False
        mine = os.fstat(self._turn_fd)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    @property
    def commits(self) -> int:
        """How many commits the database has had, as far as this queue knows."""
        return self._read(_COMMITS) if self._turn_fd >= 0 else 0

    def _log(self) -> int:
        """A descriptor of the log as it is named now (closing the last connection removes it, opening makes a new one)."""
        try:
            there = self._wal.stat()
        except FileNotFoundError:  # checkpointed and removed, so what was in it is in the database, synced
            return self._turn_fd
        if self._wal_fd >= 0:
            mine = os.fstat(self._wal_fd)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return self._wal_fd
            os.close(self._wal_fd)
        self._wal_fd = os.open(self._wal, os.O_RDWR | os.O_CLOEXEC)
        return self._wal_fd

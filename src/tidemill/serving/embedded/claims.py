"""What makes room in the prediction log's file: rows that are archived elsewhere keep their key, time and score, and lose the rest.

A row is whole (`batch` empty), claimed by a batch that is being archived, or thin (`batch` is a dash). A claim is durable before anybody
archives its rows, so whoever was killed in between finds the same batch with the same rows.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import msgspec

from tidemill.core.errors import UnavailableError
from tidemill.core.ids import random_id
from tidemill.serving.ports import THIN, Prediction

_THIN = "-"
_INDEXES = """
CREATE INDEX IF NOT EXISTS prediction_whole ON prediction (service, at_us) WHERE batch = '';
CREATE INDEX IF NOT EXISTS prediction_claimed ON prediction (batch) WHERE batch > '-';
"""
_CLAIMED = "SELECT batch FROM prediction WHERE batch > '-' AND service = ? LIMIT 1"


class _File(Protocol):
    """What the half that has the file offers."""

    _path: str
    _writer: sqlite3.Connection
    _commit: threading.Lock

    def _reader(self) -> sqlite3.Connection: ...

    def _prediction(self, row: tuple[Any, ...]) -> Prediction: ...

    def _undo(self) -> None: ...

    def _take_over(self) -> None: ...

    def _change(self) -> AbstractContextManager[sqlite3.Connection]: ...


class Claims:
    """The half of a log in SQLite that archiving needs; the other half has the file."""

    @staticmethod
    def _prepare(db: sqlite3.Connection) -> None:
        """Add what a file that an earlier version made has not."""
        if "batch" not in {row[1] for row in db.execute("PRAGMA table_info(prediction)")}:
            db.execute("ALTER TABLE prediction ADD COLUMN batch TEXT NOT NULL DEFAULT ''")
        db.executescript(_INDEXES)

    @contextmanager
    def _change(self: _File) -> Iterator[sqlite3.Connection]:
        with self._commit:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise UnavailableError(
                    f"the prediction log {self._path} cannot be changed: {error}; free disk space or repair the disk"
                ) from error
            except BaseException:
                self._undo()
                raise

    def claim(self: _File, service: str, *, until_us: int, limit: int) -> tuple[str, list[Prediction]]:
        """As the port says."""
        fields = "id, service, model, version, role, at_us, score, columns, inputs, request, latency_us, degraded, route"
        self._take_over()
        found = self._reader().execute(_CLAIMED, (service,)).fetchone()
        if found is None:
            with self._change() as db:
                found = db.execute(_CLAIMED, (service,)).fetchone() or (random_id("log"),)
                db.execute(
                    "UPDATE prediction SET batch = ? WHERE seq IN (SELECT seq FROM prediction WHERE batch = '' AND service = ? AND at_us < ? "
                    "ORDER BY at_us, id, role, version LIMIT ?) AND NOT EXISTS (SELECT 1 FROM prediction WHERE batch > '-' AND batch = ?)",
                    (found[0], service, until_us, limit, found[0]),
                )
        batch = str(found[0])
        rows = self._reader().execute(
            f"SELECT {fields} FROM prediction WHERE batch > '-' AND batch = ? ORDER BY at_us, id, role, version", (batch,)
        )
        return batch, [self._prediction(row) for row in rows.fetchall()]

    def thin(self: _File, batch: str) -> None:
        """As the port says."""
        if batch <= _THIN:
            return
        with self._change() as db:
            names = msgspec.json.encode(THIN).decode()
            db.execute("INSERT OR IGNORE INTO columns (names) VALUES (?)", (names,))
            none = db.execute("SELECT id FROM columns WHERE names = ?", (names,)).fetchone()[0]
            rows = db.execute("SELECT seq, inputs FROM prediction WHERE batch > '-' AND batch = ?", (batch,)).fetchall()
            encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
            db.executemany(
                "UPDATE prediction SET inputs = ?, request = ?, columns = ?, batch = '-' WHERE seq = ?",
                [(encode((decode(inputs)[0], None)), encode({}), none, seq) for seq, inputs in rows],
            )

    def drop(self: _File, service: str, *, before_us: int) -> int:
        """As the port says."""
        self._take_over()
        with self._change() as db:
            return db.execute("DELETE FROM prediction WHERE service = ? AND at_us < ?", (service, before_us)).rowcount

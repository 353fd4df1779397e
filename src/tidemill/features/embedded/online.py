"""The embedded online store: one SQLite file that any number of processes read while one writes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS state (view TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY (view, key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS cursor (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
_PUT_STATE = "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
_PUT_CURSOR = "INSERT INTO cursor VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_GET_STATE = "SELECT body FROM state WHERE view = ? AND key = ?"


class SqliteOnlineStore:
    """An `OnlineStore` in one SQLite file (WAL, synchronous=NORMAL: it survives a killed process, and is rebuilt from tables after worse)."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=60000"):
            self._db.execute(f"PRAGMA {pragma}")
        for statement in _SCHEMA:
            self._db.execute(statement)

    def write(self, states: Mapping[tuple[str, str], bytes], cursors: Mapping[str, str]) -> None:
        rows = [(view, key, body) for (view, key), body in states.items()]
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_PUT_STATE, rows)
                self._db.executemany(_PUT_CURSOR, list(cursors.items()))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        with self._lock:
            hits = [self._db.execute(_GET_STATE, key).fetchone() for key in keys]
        return [hit[0] if hit else None for hit in hits]

    def cursors(self) -> dict[str, str]:
        with self._lock:
            return dict(self._db.execute("SELECT name, value FROM cursor").fetchall())

    def clear(self, view: str) -> None:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM state WHERE view = ?", (view,))
            self._db.execute("DELETE FROM cursor WHERE name = ?", (view,))
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

"""The catalog as one SQLite file with full-text search (FTS5)."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tidemill.catalog.ports import Entry

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, facts TEXT NOT NULL,
    UNIQUE (kind, name));
CREATE VIRTUAL TABLE IF NOT EXISTS entry_text USING fts5 (name, description, facts, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3');
"""
_PUT = """INSERT INTO entry (kind, name, description, facts) VALUES (?, ?, ?, ?)
    ON CONFLICT (kind, name) DO UPDATE SET description = excluded.description, facts = excluded.facts RETURNING id"""
_MATCH = """SELECT e.kind, e.name, e.description, e.facts FROM entry_text JOIN entry e ON e.id = entry_text.rowid
    WHERE entry_text MATCH ? AND (? IS NULL OR e.kind = ?) ORDER BY bm25(entry_text, 10.0, 3.0, 1.0), e.name, e.kind LIMIT ?"""
_ALL = "SELECT kind, name, description, facts FROM entry WHERE (? IS NULL OR kind = ?) ORDER BY name, kind LIMIT ?"
_WORDS, _LENGTH = 32, 200


class SqliteCatalog:
    """A `Catalog` in one file; threads and processes may share it."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(str(path), timeout=60, isolation_level=None, check_same_thread=False)
        for pragma in ("busy_timeout=60000", "journal_mode=WAL", "synchronous=NORMAL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def put(self, entries: Iterable[Entry]) -> None:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for entry in entries:
                    self._put(entry)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _put(self, entry: Entry) -> None:
        facts = json.dumps(dict(entry.facts), ensure_ascii=False)
        row: Any = self._db.execute(_PUT, (entry.kind, entry.name, entry.description, facts)).fetchone()
        self._db.execute("DELETE FROM entry_text WHERE rowid = ?", row)
        words = " ".join(f"{key} {value}" for key, value in entry.facts.items())
        self._db.execute(
            "INSERT INTO entry_text (rowid, name, description, facts) VALUES (?, ?, ?, ?)", (*row, entry.name, entry.description, words)
        )

    def search(self, text: str, *, kind: str | None = None, limit: int = 20) -> list[Entry]:
        query = match_expression(text)
        if query is None:
            return []
        found = (_MATCH, (query, kind, kind, limit)) if query else (_ALL, (kind, kind, limit))
        with self._lock:
            rows = self._db.execute(*found).fetchall()
        return [Entry(kind_, name, description, json.loads(facts)) for kind_, name, description, facts in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def match_expression(text: str) -> str | None:
    """An FTS5 query for every word of `text` as a prefix: quoted, so that nothing is syntax; "" for no text, None for text without a word."""
    words = [word for word in text.replace("\x00", " ").split() if any(letter.isalnum() for letter in word)]
    if not words:
        return None if text.strip() else ""
    quoted = (word[:_LENGTH].replace('"', '""') for word in words[:_WORDS])
    return " AND ".join(f'"{word}"*' for word in quoted)

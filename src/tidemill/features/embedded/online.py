"""The embedded online store: one SQLite file that any number of processes read while one writes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice, repeat
from pathlib import Path

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.opened import OpenedFile, connect_existing
from tidemill.features.ports import MAX_STATE_BYTES, Grid, States

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS state (view TEXT, key TEXT, body BLOB NOT NULL, expires_us INTEGER, PRIMARY KEY (view, key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS cursor (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
_LARGE = "CREATE TABLE large (view TEXT, key TEXT, body BLOB NOT NULL, expires_us INTEGER, PRIMARY KEY (view, key))"
_LARGE_BYTES = 32_768
"""Larger bodies are in a table whose index holds keys alone: SQLite reads the whole row of whatever key a search in a `WITHOUT ROWID` table
passes, and a table's remembered rows have megabytes."""
_TABLES = ("state", "large")
_ADD_EXPIRES = "ALTER TABLE state ADD COLUMN expires_us INTEGER"
_DUE = "CREATE INDEX IF NOT EXISTS state_due ON state (expires_us) WHERE expires_us IS NOT NULL"
_CACHE_KB = 65_536
"""Pages that a writer changes in one transaction stay in memory up to here."""
_WAIT_MS, _WRITER_WAIT_MS = 1_000, 60_000
"""How long to wait for somebody's lock. Readers do not wait for writers, so one that does is better told that the store is gone."""
_REPAIR = "put it back, or remove it and run `tidemill features materialize`"
_PUT = (
    "INSERT INTO {} (view, key, body, expires_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET body = excluded.body, expires_us = excluded.expires_us"
)
_PUT_CURSOR = "INSERT INTO cursor VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_FEW = 8
"""Keys that are asked for in columns of one row, each number by a statement of its own."""
_MANY = 512
"""More keys are rows of a join, so many in a statement at most."""
_ABREAST = 8
"""Views whose states of a key are columns of one row: of each key less has to be handed to SQLite and back."""


class SqliteOnlineStore:
    """An `OnlineStore` in one SQLite file (WAL, synchronous=NORMAL: it survives a killed process, and is rebuilt from tables after worse)."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.RLock()
        self._path = Path(path)
        self._path.touch()
        self._open()
        for statement in _SCHEMA:
            self._db.execute(statement)
        if "expires_us" not in {row[1] for row in self._db.execute("PRAGMA table_info(state)")}:
            self._db.execute(_ADD_EXPIRES)
        self._db.execute(_DUE)
        self._part()

    def _open(self) -> None:
        self._file = OpenedFile(self._path)
        self._db = connect_existing(self._path, timeout=60)
        # not mapped into memory: who reads a file that was cut off that way is killed by SIGBUS; and beside a writer it is slower
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_WAIT_MS}", f"cache_size=-{_CACHE_KB}"):
            self._db.execute(f"PRAGMA {pragma}")

    def _there(self) -> sqlite3.Connection:
        """The connection to the file that is there. Raises `UnavailableError` while it is moved away or cut off."""
        if self._file.changed():
            if why := self._file.problem():
                raise UnavailableError(f"the online store {self._path} {why}; {_REPAIR}")
            self._open()
        return self._db

    def _told(self, error: sqlite3.DatabaseError) -> Exception:
        """What to raise for SQLite's error: `UnavailableError` unless it is about an argument."""
        if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
            return error
        return UnavailableError(f"the online store {self._path} cannot be used: {error}; {_REPAIR}")

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock:
            try:
                yield self._there()
            except sqlite3.DatabaseError as error:
                raise self._told(error) from error

    def write(
        self, states: Mapping[tuple[str, str], bytes], cursors: Mapping[str, str], expires_us: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        due = expires_us or {}
        if any(size > MAX_STATE_BYTES for size in map(len, states.values())):
            (view, key), body = max(states.items(), key=lambda item: len(item[1]))
            raise InvalidError(f"the state of {view!r} {key!r} has {len(body)} bytes; a state has {MAX_STATE_BYTES} at most")
        rows: dict[str, list[tuple[str, str, bytes, int | None]]] = {"state": [], "large": []}
        for (view, key), body in states.items():
            rows["state" if len(body) <= _LARGE_BYTES else "large"].append((view, key, body, due.get((view, key))))
        with self._transaction():
            large = set(self._db.execute("SELECT view, key FROM large"))
            self._forget(
                "large", [(view, key) for view, key in large if len(states.get((view, key), b"")) <= _LARGE_BYTES and (view, key) in states]
            )
            self._forget("state", [(view, key) for view, key, *_ in rows["large"] if (view, key) not in large])
            for table, some in rows.items():
                self._db.executemany(_PUT.format(table), some)
            self._db.executemany(_PUT_CURSOR, list(cursors.items()))

    def fill(self, view: str, batches: Iterable[States]) -> None:
        """As of `BulkStore`. Where most states are new, the index by due time is made once at the end: a crash leaves that to who opens next."""
        unsorted = False
        try:
            for batch in batches:
                if max(map(len, batch.bodies), default=0) > _LARGE_BYTES:
                    places = [(view, key) for key in batch.keys]
                    self.write(dict(zip(places, batch.bodies, strict=True)), {}, dict(zip(places, batch.expires_us, strict=True)))
                    continue
                with self._transaction():
                    if not unsorted and self._has_at_most(len(batch.keys)):
                        self._db.execute("DROP INDEX IF EXISTS state_due")
                        unsorted = True
                    self._put_small(view, batch)
        finally:
            if unsorted:
                with self._transaction():
                    self._db.execute(_DUE)

    def _has_at_most(self, states: int) -> bool:
        return self._db.execute("SELECT 1 FROM state LIMIT 1 OFFSET ?", (states,)).fetchone() is None

    def _put_small(self, view: str, batch: States) -> None:
        large = {key for (key,) in self._db.execute("SELECT key FROM large WHERE view = ?", (view,))}
        self._forget("large", [(view, key) for key in large.intersection(batch.keys)])
        self._db.executemany(_PUT.format("state"), zip(repeat(view), batch.keys, batch.bodies, batch.expires_us, strict=False))

    def _forget(self, table: str, keys: Sequence[tuple[str, str]]) -> None:
        self._db.executemany(f"DELETE FROM {table} WHERE view = ? AND key = ?", keys)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._held() as db:
            db.execute(f"PRAGMA busy_timeout={_WRITER_WAIT_MS}")
            try:
                db.execute("BEGIN IMMEDIATE")
                yield
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            finally:
                db.execute(f"PRAGMA busy_timeout={_WAIT_MS}")

    def _part(self) -> None:
        """Have a table for large bodies; a store from before there was one has them in the other."""
        if self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'large'").fetchone():
            return
        with self._transaction():
            if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'large'").fetchone():
                self._db.execute(_LARGE)
                self._db.execute("INSERT INTO large SELECT view, key, body, expires_us FROM state WHERE length(body) > ?", (_LARGE_BYTES,))
                self._db.execute("DELETE FROM state WHERE length(body) > ?", (_LARGE_BYTES,))

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        if len(keys) <= _FEW:
            if not keys:
                return []
            return list(self._row([part for key in keys for part in (*key, *key)]))
        with self._snapshot():
            found: list[bytes | None] = []
            for start in range(0, len(keys), _MANY):
                found += self._join("state", keys[start : start + _MANY])
            self._add_large(keys.__getitem__, found)
        return found

    def _row(self, asked: Sequence[str]) -> Sequence[bytes | None]:
        """The states of a few keys, of each its view and key twice."""
        with self._lock:
            try:
                return self._there().execute(_few(len(asked) // 4), asked).fetchone()  # type: ignore[no-any-return]
            except sqlite3.DatabaseError as error:
                raise self._told(error) from error

    def read_grids(self, grids: Sequence[Grid]) -> list[list[Sequence[bytes | None]]]:
        """As of `GridStore`."""
        asked: list[str] = []
        for views, keys in grids:
            if len(views) * len(keys) > _FEW:
                break
            for view in views:
                for key in keys:
                    asked += (view, key, view, key)
        else:
            if 0 < len(asked) <= 4 * _FEW:
                found = iter(self._row(asked))
                return [[[*islice(found, len(keys))] for _ in views] for views, keys in grids]
        with self._snapshot():
            return [self._grid(views, keys) for views, keys in grids]

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """What is read inside is as of one moment."""
        with self._held() as db:
            db.execute("BEGIN")
            try:
                yield
            finally:
                db.execute("COMMIT")

    def _grid(self, views: Sequence[str], keys: Sequence[str]) -> list[Sequence[bytes | None]]:
        return [column for first in range(0, len(views), _ABREAST) for column in self._abreast(views[first : first + _ABREAST], keys)]

    def _abreast(self, views: Sequence[str], keys: Sequence[str]) -> list[list[bytes | None]]:
        found: list[list[bytes | None]] = [[] for _ in views]
        for start in range(0, len(keys), _MANY):
            some = keys[start : start + _MANY]
            size = _padded(len(some))
            rows = self._db.execute(_columns(len(views), size), (*some, *repeat(None, size - len(some)), *views)).fetchall()
            rows.sort()  # by number; they come that way, but SQLite does not promise it
            _, *columns = zip(*rows, strict=True)
            for mine, column in zip(found, columns, strict=True):
                mine += column[: len(some)]
        for view, mine in zip(views, found, strict=True):
            if None in mine:
                self._add_large(partial(_place, view, keys), mine)
        return found

    def _add_large(self, place: Callable[[int], tuple[str, str]], found: list[bytes | None]) -> None:
        """Put large bodies where none was found; `place` is the view and key that an item of `found` is of."""
        missing = [i for i, body in enumerate(found) if body is None]
        for start in range(0, len(missing), _MANY):
            some = missing[start : start + _MANY]
            for i, body in zip(some, self._join("large", [*map(place, some)]), strict=True):
                found[i] = body

    def _join(self, table: str, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        size = _padded(len(keys))
        values: list[str | None] = [part for key in keys for part in key]
        values += repeat(None, 2 * (size - len(keys)))
        found: list[bytes | None] = [None] * size
        for i, body in self._db.execute(_many(table, size), values):
            found[i] = body
        return found[: len(keys)]

    def cursors(self) -> dict[str, str]:
        with self._held() as db:
            return dict(db.execute("SELECT name, value FROM cursor").fetchall())

    def clear(self, view: str) -> None:
        with self._transaction():
            for table in _TABLES:
                self._db.execute(f"DELETE FROM {table} WHERE view = ?", (view,))
            self._db.execute("DELETE FROM cursor WHERE name = ?", (view,))

    def sweep(self, now_us: int) -> int:
        with self._transaction():
            return sum(self._db.execute(f"DELETE FROM {table} WHERE expires_us <= ?", (now_us,)).rowcount for table in _TABLES)

    def lost(self) -> list[str]:
        return []

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


def _place(view: str, keys: Sequence[str], i: int) -> tuple[str, str]:
    return view, keys[i]


def _padded(n: int) -> int:
    """Rows of the statement for n keys, the last ones NULL, which costs no search: so few statements are ever compiled."""
    step = 8 if n <= 128 else 64
    return -(-n // step) * step


@cache
def _few(n: int) -> str:
    one = "coalesce((SELECT body FROM state WHERE view = ? AND key = ?), (SELECT body FROM large WHERE view = ? AND key = ?))"
    return "SELECT " + ", ".join([one] * n)


@cache
def _many(table: str, n: int) -> str:
    asked = ", ".join(f"({i}, ?, ?)" for i in range(n))
    return f"WITH asked (i, v, k) AS (VALUES {asked}) SELECT i, body FROM asked CROSS JOIN {table} ON view = v AND key = k"


@cache
def _columns(views: int, n: int) -> str:
    asked = ", ".join(f"({i}, ?)" for i in range(n))
    bodies = ", ".join(f"s{j}.body" for j in range(views))
    joins = " ".join(f"LEFT JOIN state s{j} ON s{j}.view = ? AND s{j}.key = k" for j in range(views))
    return f"WITH asked (i, k) AS (VALUES {asked}) SELECT i, {bodies} FROM asked {joins}"

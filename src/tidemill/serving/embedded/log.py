"""The prediction log in one SQLite file: WAL, fsync on every group."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.serving.ports import Prediction, Role

_SCHEMA = """
CREATE TABLE IF NOT EXISTS columns (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS prediction (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, service TEXT NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL, role INTEGER NOT NULL,
    at_us INTEGER NOT NULL, score REAL, columns INTEGER NOT NULL, inputs BLOB NOT NULL, request BLOB NOT NULL, latency_us INTEGER NOT NULL, degraded INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS prediction_once ON prediction (id, version, role, service);
CREATE INDEX IF NOT EXISTS prediction_time ON prediction (service, at_us);
"""
_FIELDS = "id, service, model, version, role, at_us, score, columns, inputs, request, latency_us, degraded"
_ROLES: tuple[Role, ...] = ("live", "canary", "shadow")
_CODE = {role: code for code, role in enumerate(_ROLES)}
_ONE = "(?,?,?,?,?,?,?,?,?,?,?,?)"
_DEGRADED = ("", "default", "last_known")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_Row = tuple[Any, ...]


class _Group:
    """The rows of one `append`, and what became of them."""

    __slots__ = ("columns", "done", "error", "rows")

    def __init__(self, rows: list[_Row], columns: set[tuple[str, ...]]) -> None:
        self.rows = rows
        self.columns = columns
        self.done = False
        self.error: UnavailableError | None = None


class SqlitePredictionLog:
    """A `PredictionLog` in one file. Appends of many threads that meet are committed together, with one fsync.

    Rows go in many to a statement: Python's sqlite3 gives up the interpreter lock once a statement, so a busy server's
    event loop is asked for it a few times a group instead of once a row.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._meet = threading.Lock()
        self._commit = threading.Lock()
        self._waiting: list[_Group] = []
        self._column_ids: dict[tuple[str, ...], int] = {}
        self._column_names: dict[int, tuple[str, ...]] = {}
        self._local = threading.local()
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open()
            self._writer.executescript(_SCHEMA)
            if "degraded" not in {row[1] for row in self._writer.execute("PRAGMA table_info(prediction)")}:
                self._writer.execute("ALTER TABLE prediction ADD COLUMN degraded INTEGER NOT NULL DEFAULT 0")
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"the prediction log {self._path} cannot be opened: {error}; check the disk and its permissions"
            ) from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False, cached_statements=256)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-32000"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def append(self, predictions: Sequence[Prediction]) -> None:
        if not predictions:
            return
        group = _Group([_row(p) for p in predictions], {p.columns for p in predictions})
        with self._meet:
            self._waiting.append(group)
        with self._commit:
            if not group.done:
                with self._meet:
                    groups, self._waiting = self._waiting, []
                self._store(groups)
        if group.error is not None:
            raise group.error

    def _store(self, groups: list[_Group]) -> None:
        db = self._writer
        failure: UnavailableError | None = None
        try:
            db.execute("BEGIN IMMEDIATE")
            ids = self._columns(set().union(*(g.columns for g in groups)))
            rows = [(*row[:7], ids[row[7]], *row[8:]) for group in groups for row in group.rows]
            for start, size in _pieces(len(rows)):
                values = [value for row in rows[start : start + size] for value in row]
                db.execute(f"INSERT OR IGNORE INTO prediction ({_FIELDS}) VALUES {','.join([_ONE] * size)}", values)
            db.execute("COMMIT")
            self._column_ids.update(ids)
        except sqlite3.Error as error:
            failure = UnavailableError(f"the prediction log {self._path} cannot be written: {error}; free disk space or repair the disk")
            failure.__cause__ = error
            self._undo()
        for group in groups:
            group.error = failure
            group.done = True

    def _columns(self, wanted: set[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        ids = {names: self._column_ids[names] for names in wanted if names in self._column_ids}
        for names in wanted - ids.keys():
            text = msgspec.json.encode(names).decode()
            self._writer.execute("INSERT OR IGNORE INTO columns (names) VALUES (?)", (text,))
            ids[names] = self._writer.execute("SELECT id FROM columns WHERE names = ?", (text,)).fetchone()[0]
        return ids

    def _undo(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer.close()
            self._writer = self._open()

    def _reader(self) -> sqlite3.Connection:
        if not hasattr(self._local, "db"):
            self._local.db = self._open()
        db: sqlite3.Connection = self._local.db
        return db

    def _names(self, columns: int) -> tuple[str, ...]:
        if columns not in self._column_names:
            text = self._reader().execute("SELECT names FROM columns WHERE id = ?", (columns,)).fetchone()[0]
            self._column_names[columns] = tuple(msgspec.json.decode(text))
        return self._column_names[columns]

    def _prediction(self, row: _Row) -> Prediction:
        score, *values = _decode(row[8])  # the column of scores is for queries: SQLite turns -0.0 into 0 and NaN into null
        names, mode = self._names(row[7]), _DEGRADED[row[11]]
        return Prediction(
            row[0], row[1], row[2], row[3], _ROLES[row[4]], row[5], score, names, tuple(values), _decode(row[9]), row[10], mode
        )

    def read(
        self, service: str, *, from_us: int = 0, until_us: int | None = None, roles: Iterable[Role] | None = None
    ) -> Iterator[Prediction]:
        where, values = _window(service, from_us, until_us)
        if roles is not None:
            codes = sorted({_CODE[role] for role in roles})
            where += f" AND role IN ({','.join(map(str, codes))})"
        cursor = self._reader().cursor()
        cursor.arraysize = 1000
        for row in cursor.execute(f"SELECT {_FIELDS} FROM prediction WHERE {where} ORDER BY at_us, id, role, version", values):
            yield self._prediction(row)

    def find(self, prediction_id: str) -> list[Prediction]:
        query = f"SELECT {_FIELDS} FROM prediction WHERE id = ? ORDER BY service, role = {_CODE['shadow']}, at_us, version"
        return [self._prediction(row) for row in self._reader().execute(query, (prediction_id,)).fetchall()]

    def scores(self, service: str, *, from_us: int = 0, until_us: int | None = None) -> Mapping[str, npt.NDArray[Any]]:
        where, values = _window(service, from_us, until_us)
        query = f"SELECT id, version, role, at_us, score FROM prediction WHERE {where} ORDER BY at_us, id, role, version"
        rows = self._reader().execute(query, values).fetchall()
        found = list(zip(*rows, strict=True)) if rows else [(), (), (), (), ()]
        roles = np.array(_ROLES, dtype=object)
        return {
            "id": np.array(found[0], dtype=object),
            "version": np.array(found[1], dtype=np.int64),
            "role": roles[np.array(found[2], dtype=np.int64)],
            "at_us": np.array(found[3], dtype=np.int64),
            "score": np.array(found[4], dtype=np.float64),
        }

    def close(self) -> None:
        """Let go of the file; what was appended is already safe."""
        with self._commit:
            self._writer.close()
        if hasattr(self._local, "db"):
            self._local.db.close()


def _row(p: Prediction) -> _Row:
    try:
        inputs, request = _encode((p.score, *p.values)), _encode(p.request)
    except (TypeError, OverflowError) as error:
        raise InvalidError(f"prediction {p.id!r} cannot be logged: {error}; inputs are texts, numbers, times and None") from error
    return (
        p.id,
        p.service,
        p.model,
        p.version,
        _CODE[p.role],
        p.at_us,
        p.score,
        p.columns,
        inputs,
        request,
        p.latency_us,
        _DEGRADED.index(p.degraded),
    )


def _pieces(n: int) -> Iterator[tuple[int, int]]:
    """Split n rows into statement sizes of powers of two (at most 128), so that few statements are ever compiled."""
    start = 0
    while start < n:
        size = min(128, 1 << ((n - start).bit_length() - 1))
        yield start, size
        start += size


def _window(service: str, from_us: int, until_us: int | None) -> tuple[str, list[Any]]:
    if until_us is None:
        return "service = ? AND at_us >= ?", [service, from_us]
    return "service = ? AND at_us >= ? AND at_us < ?", [service, from_us, until_us]

"""The prediction log in one SQLite file, with a journal in front for servers; both with fsync on every group."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.serving.embedded.claims import Claims
from tidemill.serving.embedded.journal import Journal, claimed, frames, segments
from tidemill.serving.ports import Prediction, Role, Visit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS columns (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS prediction (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, service TEXT NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL, role INTEGER NOT NULL,
    at_us INTEGER NOT NULL, score REAL, columns INTEGER NOT NULL, inputs BLOB NOT NULL, request BLOB NOT NULL, latency_us INTEGER NOT NULL, degraded INTEGER NOT NULL DEFAULT 0,
    route INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS route (id INTEGER PRIMARY KEY, stations TEXT NOT NULL UNIQUE);
CREATE UNIQUE INDEX IF NOT EXISTS prediction_once ON prediction (id, version, role, service);
CREATE INDEX IF NOT EXISTS prediction_time ON prediction (service, at_us);
CREATE TABLE IF NOT EXISTS taken (segment TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
"""
_FIELDS = "id, service, model, version, role, at_us, score, columns, inputs, request, latency_us, degraded, route"
_ROLES: tuple[Role, ...] = ("live", "canary", "shadow")
_CODE = {role: code for code, role in enumerate(_ROLES)}
_ONE = "(?,?,?,?,?,?,?,?,?,?,?,?,?)"
_DEGRADED = ("", "default", "last_known")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_routes = msgspec.json.Decoder(tuple[Visit, ...]).decode
_predictions = msgspec.msgpack.Decoder(list[Prediction]).decode
_PIECE = 20_000
"""Predictions that are taken from the journal in one transaction."""
_Row = tuple[Any, ...]
_Route = tuple[Visit, ...]
_Value = TypeVar("_Value", tuple[str, ...], _Route)


class _Group:
    """The rows of one `append`, and what became of them."""

    __slots__ = ("done", "durable", "error", "frame", "rows")

    def __init__(self, rows: list[_Row], frame: bytes, durable: bool) -> None:
        self.rows, self.frame, self.durable = rows, frame, durable
        self.done = False
        self.error: UnavailableError | None = None


class SqlitePredictionLog(Claims):
    """A `PredictionLog` in one file. Appends of many threads that meet are committed together, with one fsync.

    With `ahead`, for a server, appends go to a journal in a folder beside the file; whoever reads first takes them over, whatever its process:
    a row with its place in the journal in one transaction, so each is there once. Without `sync` the journal leaves it to the system when it
    reaches the disk: a group survives a killed process, not a power cut.
    """

    def __init__(self, path: Path | str, *, ahead: bool = False, sync: bool = True) -> None:
        self._path = str(path)
        self._folder = Path(f"{self._path}-arrived")
        self._journal = Journal(self._folder, sync=sync) if ahead else None
        self._meet = threading.Lock()
        self._commit = threading.Lock()
        self._waiting: list[_Group] = []
        self._column_ids: dict[tuple[str, ...], int] = {}
        self._column_names: dict[int, tuple[str, ...]] = {}
        self._route_ids: dict[_Route, int] = {(): 0}
        self._route_of: dict[int, _Route] = {0: ()}
        self._local = threading.local()
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open()
            self._writer.executescript(_SCHEMA)
            there = {row[1] for row in self._writer.execute("PRAGMA table_info(prediction)")}
            for name in ("degraded", "route"):
                if name not in there:
                    self._writer.execute(f"ALTER TABLE prediction ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
            self._prepare(self._writer)
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"the prediction log {self._path} cannot be opened: {error}; check the disk and its permissions"
            ) from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False, cached_statements=256)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-32000"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        if not predictions:
            return
        rows, frame = ([], _frame(predictions)) if self._journal is not None else ([_row(p) for p in predictions], b"")
        group = _Group(rows, frame, durable)
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
        failure: UnavailableError | None = None
        try:
            if self._journal is not None:
                self._journal.append([group.frame for group in groups], durable=any(group.durable for group in groups))
            else:
                with self._transaction():
                    self._insert([row for group in groups for row in group.rows])
        except (sqlite3.Error, OSError) as error:
            failure = UnavailableError(f"the prediction log {self._path} cannot be written: {error}; free disk space or repair the disk")
            failure.__cause__ = error
        for group in groups:
            group.error = failure
            group.done = True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _insert(self, rows: list[_Row]) -> None:
        """Many rows to a statement: Python's sqlite3 gives up the interpreter lock once a statement."""
        ids = self._numbered("columns", "names", {row[7] for row in rows}, self._column_ids)
        routes = self._numbered("route", "stations", {row[12] for row in rows}, self._route_ids)
        for start, size in _pieces(len(rows)):
            values = [value for row in rows[start : start + size] for value in (*row[:7], ids[row[7]], *row[8:12], routes[row[12]])]
            self._writer.execute(f"INSERT OR IGNORE INTO prediction ({_FIELDS}) VALUES {','.join([_ONE] * size)}", values)
        self._column_ids.update(ids)
        self._route_ids.update(routes)

    def _take_over(self) -> None:
        """Put into the file what stands in journals."""
        for segment in segments(self._folder):
            with self._commit, suppress(FileNotFoundError):  # somebody else was through with it
                try:
                    with claimed(segment) as mine:
                        while self._take_piece(segment):
                            pass
                        if mine:
                            self._remove(segment)
                except sqlite3.Error as error:
                    raise UnavailableError(
                        f"predictions in the journal {segment} cannot be put into {self._path}: {error}; they are safe where they are, "
                        "free disk space or repair the disk"
                    ) from error

    def _take_piece(self, segment: Path) -> bool:
        """Take some predictions over, with where they ended; say whether there may be more."""
        with self._transaction():
            found = self._writer.execute("SELECT until FROM taken WHERE segment = ?", (segment.name,)).fetchone()
            start = until = found[0] if found else 0
            rows: list[_Row] = []
            for body, end in frames(segment, start):
                rows += map(_row, _predictions(body))
                until = end
                if len(rows) >= _PIECE:
                    break
            if rows:
                self._insert(rows)
                self._writer.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", (segment.name, until))
        return len(rows) >= _PIECE

    def _remove(self, segment: Path) -> None:
        with self._transaction():
            segment.unlink()
            self._writer.execute("DELETE FROM taken WHERE segment = ?", (segment.name,))

    def _numbered(self, table: str, column: str, wanted: set[_Value], known: Mapping[_Value, int]) -> dict[_Value, int]:
        """The numbers of values that are kept once, in a table of their own; `known` are those that were asked for before."""
        ids = {value: known[value] for value in wanted if value in known}
        for value in wanted - ids.keys():
            text = msgspec.json.encode(value).decode()
            self._writer.execute(f"INSERT OR IGNORE INTO {table} ({column}) VALUES (?)", (text,))
            ids[value] = self._writer.execute(f"SELECT id FROM {table} WHERE {column} = ?", (text,)).fetchone()[0]
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

    def _route(self, number: int) -> _Route:
        if number not in self._route_of:
            text = self._reader().execute("SELECT stations FROM route WHERE id = ?", (number,)).fetchone()[0]
            self._route_of[number] = _routes(text)
        return self._route_of[number]

    def _prediction(self, row: _Row) -> Prediction:
        score, *values = _decode(row[8])  # the column of scores is for queries: SQLite turns -0.0 into 0 and NaN into null
        names, mode = self._names(row[7]), _DEGRADED[row[11]]
        return Prediction(
            row[0], row[1], row[2], row[3], _ROLES[row[4]], row[5], score, names, tuple(values), _decode(row[9]), row[10], mode, self._route(row[12])
        )  # fmt: skip

    def read(
        self, service: str, *, from_us: int = 0, until_us: int | None = None, roles: Iterable[Role] | None = None
    ) -> Iterator[Prediction]:
        where, values = _window(service, from_us, until_us)
        if roles is not None:
            codes = sorted({_CODE[role] for role in roles})
            where += f" AND role IN ({','.join(map(str, codes))})"
        self._take_over()
        cursor = self._reader().cursor()
        cursor.arraysize = 1000
        for row in cursor.execute(f"SELECT {_FIELDS} FROM prediction WHERE {where} ORDER BY at_us, id, role, version", values):
            yield self._prediction(row)

    def find(self, prediction_id: str) -> list[Prediction]:
        self._take_over()
        query = f"SELECT {_FIELDS} FROM prediction WHERE id = ? ORDER BY service, role = {_CODE['shadow']}, at_us, version"
        return [self._prediction(row) for row in self._reader().execute(query, (prediction_id,)).fetchall()]

    def scores(self, service: str, *, from_us: int = 0, until_us: int | None = None) -> Mapping[str, npt.NDArray[Any]]:
        self._take_over()
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
            if self._journal is not None:
                self._journal.close()
        if hasattr(self._local, "db"):
            self._local.db.close()


def _frame(predictions: Sequence[Prediction]) -> bytes:
    try:
        return _encode(predictions)
    except (TypeError, OverflowError):
        for prediction in predictions:
            _row(prediction)  # says which one
        raise


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
        p.route,
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

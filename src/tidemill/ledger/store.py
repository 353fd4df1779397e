"""The ledger: opening it, and writing to it in short transactions, each by its turn."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.digests import canonical_json
from tidemill.core.errors import InvalidError, LedgerGoneError
from tidemill.core.opened import OpenedFile, connect_existing
from tidemill.ledger import schema, servers
from tidemill.ledger.opening import BEGUN, prepare, sqlite_path
from tidemill.ledger.queue import WriteQueue, queue_for

_METRIC = """INSERT INTO metric (run_id, name, step, value, at_us) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run_id, name, step) DO UPDATE SET value = excluded.value, at_us = excluded.at_us"""
_LAST = """INSERT INTO metric_last (run_id, name, step, value, at_us) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run_id, name) DO UPDATE SET step = excluded.step, value = excluded.value, at_us = excluded.at_us
    WHERE excluded.step >= metric_last.step"""
_MYSQL, _DUPLICATE = ("mysql", "mariadb"), 1062
_PARAM = "INSERT INTO param (run_id, name, value) VALUES (?, ?, ?) ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value"


@dataclass(frozen=True, slots=True)
class Event:
    """One state change, as the audit log has it."""

    seq: int
    id: str
    at_us: int
    kind: str
    subject: str
    actor: str
    body: Mapping[str, Any]


class Ledger:
    """The one metadata store.

    Guarantees, each checked by `tidemill.testing.ledger.LedgerContract`:
        serial: `write` has the only write transaction; readers never wait and never see half of one.
        durable: `write()` survives a power cut once its block has ended; `write(durable=False)` survives a killed process.
        patient: writers queue, over threads and processes; none sees "database is locked".
        whole: a block that raises, or whose process is killed, leaves nothing.
        portable: any process may open the same URL; a `Ledger` may be pickled, and used after a fork.
        gone: while its file or server is away, each use raises `LedgerGoneError` and makes nothing in its place; all is as before once it is back.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = sqlite_path(url)
        self._connect()
        try:
            prepare(url, self.engine, self.write)
        except sa.exc.DBAPIError as error:
            servers.raise_if_gone(url, error)
            raise

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._opening = threading.Lock()
        self._raw: sqlite3.Connection | None = None
        if self._path and os.environ.get(BEGUN) and not self._path.exists():
            raise LedgerGoneError(f"the ledger {self._path} is not there; put it back as it was, nothing needs to be started anew")
        self._queue: WriteQueue | None = queue_for(self._path) if self._path else None
        self._file = None if self._queue is None else self._begun(self._queue)
        self.engine = _engine(self.url, self._path, grouped=self._queue is not None and self._queue.groups)

    def _begun(self, queue: WriteQueue) -> OpenedFile:
        """The database's file; made when there never was one."""
        assert self._path is not None
        if not self._path.exists():
            queue.enter()
            try:
                if not self._path.exists() and queue.commits:
                    raise LedgerGoneError(
                        f"the ledger {self._path} is not there, and there was one; put it back, or remove {self._path}-queue to begin a new one"
                    )
                self._path.touch()
            finally:
                queue.leave(committed=False)
        return OpenedFile(self._path)

    def _here(self) -> None:
        """See that this process has connections of its own (SQLite's must not cross a fork) to the file that is there."""
        if self._pid != os.getpid():
            self.engine.dispose(close=False)
            self._connect()
        if self._file is not None and self._file.changed():
            with self._opening:
                self._open_again(self._file)

    def _open_again(self, file: OpenedFile) -> None:
        """Go on with what stands in the file's place. Raises `LedgerGoneError` when it is no whole database."""
        if not file.changed():  # another thread was here
            return
        if why := file.problem():
            raise LedgerGoneError(f"the ledger {self._path} {why}; put it back as it was, nothing needs to be started anew")
        before, opening = self.engine, self._opening
        self._connect()
        self._opening = opening
        before.dispose()
        try:
            prepare(self.url, self.engine, self.write)
        except BaseException:
            if self._file is not None:
                self._file.forget()
            raise

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction: committed when the block ends, rolled back when it raises. Keep it short: all others wait."""
        self._here()
        try:
            if self._queue is None:
                with servers.turn(self.engine, durable=durable) as db:
                    yield db
            else:
                with self._turn(self._queue, durable=durable) as db:
                    yield db
        except sa.exc.DBAPIError as error:
            servers.raise_if_gone(self.url, error)
            raise

    @contextmanager
    def _turn(self, queue: WriteQueue, *, durable: bool) -> Iterator[sa.Connection]:
        number, committed = 0, False
        with self.engine.connect() as db:
            queue.enter()
            try:
                db.exec_driver_sql("BEGIN IMMEDIATE")
                yield db
                db.exec_driver_sql("COMMIT")
                committed = True
            finally:
                try:
                    if not committed and db.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                        db.exec_driver_sql("ROLLBACK")
                finally:
                    number = queue.leave(committed=committed)
        if durable:
            queue.settle(number)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view for all queries of the block, however long writers go on meanwhile."""
        self._here()
        try:
            with servers.connected(self.engine) as db:
                if not self._path:
                    yield db
                    return
                db.exec_driver_sql("BEGIN")
                try:
                    yield db
                finally:
                    db.exec_driver_sql("ROLLBACK")
        except sa.exc.DBAPIError as error:
            servers.raise_if_gone(self.url, error)
            raise

    def log_metrics(self, run_id: str, values: Sequence[tuple[str, int, float]], *, at_us: int, durable: bool = False) -> None:
        """Write metric values (name, step, value) in one transaction that survives a killed process, or a power cut when `durable`.

        A second value for a step replaces the first. NaN is stored as null (SQL has none), infinities as themselves.
        """
        rows = [(run_id, name, step, value, at_us) for name, step, value in values]
        last = _last_steps(rows)
        self._here()
        if self._queue is None:
            self._log_metrics_portably(rows, last)
        else:
            self._write_raw(((_METRIC, rows), (_LAST, last)), durable=durable)

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Write parameters in one transaction that survives a killed process; a second value for a name replaces the first."""
        self._here()
        if self._queue is None:
            with self.write(durable=False) as db:
                for name, value in values.items():
                    upsert(db, schema.param, {"run_id": run_id, "name": name, "value": value})
        else:
            self._write_raw(((_PARAM, [(run_id, name, value) for name, value in values.items()]),), durable=False)

    def _write_raw(self, statements: Sequence[tuple[str, Sequence[tuple[Any, ...]]]], *, durable: bool) -> None:
        """One transaction of prepared statements, without SQLAlchemy's tens of microseconds."""
        assert self._queue is not None
        assert self._path is not None
        self._queue.enter()
        committed = False
        try:
            db = self._raw or self._open_raw(self._path)
            db.execute("BEGIN IMMEDIATE")
            try:
                for statement, rows in statements:
                    db.executemany(statement, rows)
                db.execute("COMMIT")
                committed = True
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            servers.raise_if_gone(self.url, error)
            raise
        finally:
            number = self._queue.leave(committed=committed)
        if durable:
            self._queue.settle(number)

    def _open_raw(self, path: Path) -> sqlite3.Connection:
        self._raw = connect_existing(path, timeout=60)
        _pragmas(self._raw, "NORMAL")
        return self._raw

    def _log_metrics_portably(self, rows: Sequence[tuple[Any, ...]], last: Sequence[tuple[Any, ...]]) -> None:
        names = ("run_id", "name", "step", "value", "at_us")
        with self.write(durable=False) as db:
            for row in rows:
                upsert(db, schema.metric, dict(zip(names, row, strict=True)))
            for row in last:
                newer = sa.select(schema.metric_last.c.step).where(
                    schema.metric_last.c.run_id == row[0], schema.metric_last.c.name == row[1], schema.metric_last.c.step > row[2]
                )
                if db.execute(newer).first() is None:
                    upsert(db, schema.metric_last, dict(zip(names, row, strict=True)))

    def events_after(self, seq: int, limit: int = 500) -> list[Event]:
        """State changes behind `seq` (0: from the first), oldest first, at most `limit`; what the console streams."""
        event = schema.event.c
        query = sa.select(event.seq, event.id, event.at_us, event.kind, event.subject, event.actor, event.body)
        with self.read() as db:
            rows = db.execute(query.where(event.seq > seq).order_by(event.seq).limit(limit)).all()
        return [Event(*row[:6], from_json(row[6])) for row in rows]

    def close(self) -> None:
        """Let go of all connections."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None
        self.engine.dispose()

    def __reduce__(self) -> tuple[type[Ledger], tuple[str]]:
        return Ledger, (self.url,)


def _last_steps(rows: Sequence[tuple[str, str, int, float, int]]) -> list[tuple[str, str, int, float, int]]:
    last: dict[str, tuple[str, str, int, float, int]] = {}
    for row in rows:
        held = last.get(row[1])
        if held is None or row[2] >= held[2]:
            last[row[1]] = row
    return list(last.values())


def _pragmas(connection: Any, synchronous: str) -> None:
    for pragma in ("busy_timeout=60000", "journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "cache_size=-16000"):
        connection.execute(f"PRAGMA {pragma}")


def _engine(url: str, path: Path | None, *, grouped: bool) -> sa.Engine:
    if path is None:
        return servers.connect(url)
    engine = sa.create_engine(url, creator=lambda: connect_existing(path, timeout=60), pool_size=8, max_overflow=-1)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        _pragmas(connection, "NORMAL" if grouped else "FULL")

    return engine


def insert_once(db: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there already; say whether it was new."""
    if db.dialect.name in _MYSQL:  # IGNORE would also cut off what is too long; an error leaves the transaction as it was
        try:
            db.execute(sa.insert(table).values(**values))
        except sa.exc.IntegrityError as error:
            if getattr(error.orig, "args", (0,))[0] != _DUPLICATE:
                raise
            return False
        return True
    statement = _insert(db, table).values(**values).on_conflict_do_nothing()
    return db.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def upsert(db: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
    """Insert a row, or replace the one with its primary key."""
    keys = [column.name for column in table.primary_key.columns]
    rest = {name: value for name, value in values.items() if name not in keys}
    if not rest:
        insert_once(db, table, values)
    elif db.dialect.name in _MYSQL:
        db.execute(_insert(db, table).values(**values).on_duplicate_key_update(rest))
    else:
        db.execute(_insert(db, table).values(**values).on_conflict_do_update(index_elements=keys, set_=rest))


def _insert(db: sa.Connection, table: sa.Table) -> Any:
    """The dialect's own insert, which knows about conflicts; imported here because only one of them is needed."""
    dialect = "mysql" if db.dialect.name in _MYSQL else db.dialect.name
    if dialect not in ("sqlite", "postgresql", "mysql"):
        raise InvalidError(f"a ledger cannot be kept in {dialect}; use sqlite, postgresql or mysql")
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def emit(db: sa.Connection, kind: str, subject: str, body: Mapping[str, Any], *, at_us: int, actor: str = "tidemill") -> None:
    """Append to the audit log, in the caller's transaction; the same event twice is one."""
    text = to_json(body)
    insert_once(
        db,
        schema.event,
        {
            "id": ids.derive("event", kind, subject, at_us, text),
            "at_us": at_us,
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "body": text,
        },
    )


def fact(db: sa.Connection, name: str) -> Any:
    """The latest-value fact that is stored under `name` (`schema.state`), None when there is none."""
    return from_json(db.execute(sa.select(schema.state.c.value).where(schema.state.c.name == name)).scalar())


def to_json(value: Any) -> str:
    """Canonical JSON text of a value; NaN and infinities become null."""
    return canonical_json(_finite(value)).decode()


def from_json(text: str | None) -> Any:
    """Read a JSON column."""
    return None if text is None else json.loads(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value

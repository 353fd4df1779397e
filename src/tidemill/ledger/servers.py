"""A ledger on a database server: connecting to it, and the writers' queue that the server keeps.

A writer's turn is a lock in the database, so it holds over threads, processes and machines, and ends with the connection of a writer
that is killed. PostgreSQL: an advisory lock of the transaction. MySQL and MariaDB: a named lock of the connection, taken before the
transaction begins and given back after its end.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

import sqlalchemy as sa

from tidemill.core.errors import ConfigError, InvalidError, LedgerGoneError, UnavailableError

GROUP = "tidemill.ledger"
"""Entry points of adapters: a URL's scheme, and the function that makes an engine of the URL."""

_LOCK = "CONCAT('tidemill-', MD5(DATABASE()))"
_WAIT_S = 24 * 3600
_GONE = frozenset(
    [
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    ]
)
"""What SQLite says of the file as a whole, not of a statement."""
_GONE_STATES = frozenset(["08", "53", "57"])
"""Classes of PostgreSQL's states: the connection, resources such as disk and memory, an operator's hand (a server that stops)."""
_WRITING: set[tuple[str, int, int]] = set()
"""Who has a turn here: (ledger, process, thread)."""


def schemes() -> list[str]:
    """Schemes of URLs that adapters can open."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def connect(url: str) -> sa.Engine:
    """An engine for a server's URL. Raises `ConfigError` for an unknown scheme, a missing extra and a password in clear."""
    scheme = url.partition(":")[0]
    adapters = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in adapters:
        raise ConfigError(
            f"a ledger cannot be kept in {scheme!r}; its URL starts with {', '.join(f'{s}://' for s in ('sqlite', *adapters))}"
        )
    try:
        opening = adapters[scheme].load()
    except ModuleNotFoundError as error:
        raise ConfigError(f"stack.ledger: {scheme!r} needs an extra: pip install 'tidemill[{scheme}]'") from error
    engine: sa.Engine = opening(url)
    return engine


def shown(url: str) -> str:
    """A URL without its password."""
    return sa.make_url(url).render_as_string(hide_password=True)


def raise_if_gone(url: str, error: Exception) -> None:
    """Raise `LedgerGoneError` when an error of a statement says that the ledger as a whole does not answer."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        gone = getattr(cause, "sqlite_errorcode", 0) & 0xFF in _GONE
    else:
        lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
        gone = lost or str(getattr(cause, "sqlstate", None) or "")[:2] in _GONE_STATES
    if gone:
        raise LedgerGoneError(_text(shown(url), cause)) from error


def _text(where: str, cause: BaseException | None) -> str:
    why = (str(cause).strip().splitlines() or ["no reason"])[0]
    if isinstance(cause, sqlite3.Error):
        return f"the ledger {where} does not answer: {why}; see who locks it, whether it was moved or damaged, and whether the disk is full"
    return f"the ledger {where} does not answer: {why}; is the server running, are user, password and database right?"


@contextmanager
def connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection, for reading. Raises `LedgerGoneError` when the server does not answer."""
    try:
        db = engine.connect()
    except sa.exc.OperationalError as error:
        raise LedgerGoneError(_text(shown(str(engine.url)), error.orig)) from error
    with db:
        yield db


@contextmanager
def turn(engine: sa.Engine, *, durable: bool = True) -> Iterator[sa.Connection]:
    """One transaction as the only writer. Raises `InvalidError` in a thread that has a turn already, `UnavailableError`."""
    me = (shown(str(engine.url)), os.getpid(), threading.get_ident())
    if me in _WRITING:
        raise InvalidError("this thread has a ledger transaction open; write with its connection instead of a second one")
    _WRITING.add(me)
    try:
        if engine.dialect.name == "postgresql":
            # each statement must see what the writer before us committed, also the one that waits for the lock
            with connected(engine.execution_options(isolation_level="READ COMMITTED")) as db, db.begin():
                db.exec_driver_sql("SELECT pg_advisory_xact_lock(7437445)")
                if not durable:
                    db.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield db
        else:
            with connected(engine) as db, _named_lock(db), db.begin():
                yield db
    finally:
        _WRITING.discard(me)


@contextmanager
def _named_lock(db: sa.Connection) -> Iterator[None]:
    if db.exec_driver_sql(f"SELECT GET_LOCK({_LOCK}, {_WAIT_S})").scalar() != 1:
        raise UnavailableError(f"the ledger {shown(str(db.engine.url))} let nobody else write for a day; look for a writer that hangs")
    db.rollback()  # the lock stays; the transaction that selecting it began must not give the writer an old view
    try:
        yield
    finally:
        try:
            db.exec_driver_sql(f"SELECT RELEASE_LOCK({_LOCK})")
            db.rollback()
        except BaseException:
            db.invalidate()  # closing the connection gives the lock back
            raise

"""A ledger on a database server: connecting to it, and the writers' queue that the server keeps.

A writer's turn is a lock in the database, so it holds over threads, processes and machines, and ends with the connection of a writer
that is killed. PostgreSQL: an advisory lock of the transaction. MySQL and MariaDB: a named lock of the connection, taken before the
transaction begins and given back after its end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

import sqlalchemy as sa

from tidemill.core.errors import ConfigError, InvalidError, UnavailableError

GROUP = "tidemill.ledger"
"""Entry points of adapters: a URL's scheme, and the function that makes an engine of the URL."""

_LOCK = "CONCAT('tidemill-', MD5(DATABASE()))"
_WAIT_S = 24 * 3600
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


@contextmanager
def connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection, for reading. Raises `UnavailableError` when the server does not answer."""
    try:
        db = engine.connect()
    except sa.exc.OperationalError as error:
        why = str(error.orig).strip().splitlines()[0]
        raise UnavailableError(
            f"the ledger {shown(str(engine.url))} does not answer: {why}; is the server running, are user, password and database right?"
        ) from error
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

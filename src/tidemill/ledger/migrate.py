"""Bringing an older ledger to this version's tables, by the revisions in `migrations/versions`.

A new ledger is made from `schema.py` at once and stamped with the newest revision. For a change of `schema.py`, call
`write_revision(message)`, look at the file that it writes, and set `opening.HEAD` to its number; tests hold the three together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import sqlalchemy as sa
from alembic import autogenerate, command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from tidemill.core.errors import ConflictError
from tidemill.ledger import opening, schema, servers
from tidemill.ledger.queue import queue_for

FOLDER = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Check:
    """How a ledger compares with this version. `differences`: what its tables have or lack, in words."""

    url: str
    revision: str | None
    head: str
    state: Literal["empty", "current", "older", "unknown"]
    differences: tuple[str, ...] = ()


def upgrade(url: str, *, to: str = "head") -> str | None:
    """Bring a ledger to revision `to`, in one transaction (MySQL commits each table's change by itself); return the revision it had.

    A SQLite ledger is copied to `<file>.<revision>.bak` first; make a backup of a server's database yourself. Raises `ConflictError` for a ledger newer than this version.
    """
    found = check(url)
    if found.state == "unknown":
        raise ConflictError(f"the ledger is at revision {found.revision}, which this Tidemill does not know; install a newer Tidemill")
    path = opening.sqlite_path(url)
    if found.state == "older" and path is not None:
        _copy(path, path.with_name(f"{path.name}.{found.revision}.bak"))
    with _connection(url) as db:
        command.upgrade(_config(db), to)
    return found.revision


def check(url: str) -> Check:
    """Compare a ledger with this version, without changing it."""
    with _connection(url, write=False) as db:
        scripts = ScriptDirectory.from_config(_config(db))
        head = str(scripts.get_current_head())
        if not sa.inspect(db).has_table("alembic_version"):
            return Check(url, None, head, "unknown" if sa.inspect(db).has_table("event") else "empty")
        context = MigrationContext.configure(db, opts={"compare_type": _same_type})
        revision = context.get_current_revision()
        try:
            scripts.get_revision(str(revision))
        except CommandError:
            return Check(url, revision, head, "unknown")
        differences = tuple(_words(item) for item in autogenerate.compare_metadata(context, schema.metadata))
    return Check(url, revision, head, "current" if revision == head else "older", differences)


def write_revision(message: str, number: str, folder: Path | None = None) -> Path:
    """For developers: write the revision that takes a ledger from the newest revision to `schema.py`."""
    with TemporaryDirectory() as scratch, _connection(f"sqlite:///{scratch}/ledger.db") as db:
        command.upgrade(_config(db, folder), "head")
        made = command.revision(_config(db, folder), message, autogenerate=True, rev_id=number)
    assert made is not None
    assert not isinstance(made, list)
    path = Path(made.path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "# ### " not in line), encoding="utf-8")
    return path


@contextmanager
def _connection(url: str, *, write: bool = True) -> Iterator[sa.Connection]:
    """One transaction on a ledger, as its only writer."""
    path = opening.sqlite_path(url)
    if path is None:
        server = servers.connect(url)
        try:
            with (servers.turn if write else servers.connected)(server) as db:
                yield db
        finally:
            server.dispose()
        return
    engine = sa.create_engine(url, connect_args={"isolation_level": None, "timeout": 60})
    queue = queue_for(path) if write else None
    if queue:
        queue.enter()
    number = 0
    try:
        with engine.connect() as db:
            db.exec_driver_sql("PRAGMA foreign_keys=OFF")
            db.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
            yield db
            db.exec_driver_sql("COMMIT")
            db.commit()
    finally:
        engine.dispose()
        if queue:
            number = queue.leave(committed=True)
    if queue:
        queue.settle(number)


def _config(db: sa.Connection, folder: Path | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder or FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = db
    return config


def _copy(path: Path, copy: Path) -> None:
    """A consistent copy, also of what is still in the write-ahead log."""
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()


def _same_type(_context: Any, _found: Any, wanted: Any, found_type: Any, _wanted_type: Any) -> bool | None:
    """False where the types are the same although Alembic would not see it: MySQL calls a long TEXT LONGTEXT. None: let it look."""
    long = wanted.type is schema.LONG_TEXT or wanted.type is schema.LONG_BYTES
    return False if long and str(found_type) in ("LONGTEXT", "LONGBLOB") else None


def _words(item: Any) -> str:
    """One difference that Alembic found: a tuple, or a list of tuples about one column."""
    if isinstance(item, list):
        return "; ".join(_words(each) for each in item)
    what, *parts = item
    return f"{what} {' '.join(str(getattr(part, 'name', part)) for part in parts if part is not None)}"

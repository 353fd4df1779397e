"""Opening the ledger and writing to it in short, immediate transactions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.ledger import schema


class Ledger:
    """The one metadata store.

    Guarantees:
        serial: `write` holds the only write lock; readers never block and never see half a transaction.
        durable: `write()` survives a power cut once the block ends; `write(durable=False)` survives a killed process.
        patient: writers queue; none sees "database is locked".
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url, "NORMAL")
        self._durable = _engine(url, "FULL")
        schema.metadata.create_all(self.engine)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with (self._durable if durable else self.engine).connect() as db:
            db.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield db
                db.commit()
            except BaseException:
                db.rollback()
                raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view for queries."""
        with self.engine.connect() as db:
            yield db

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()
        self._durable.dispose()


def _engine(url: str, synchronous: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 60, "isolation_level": None} if url.startswith("sqlite") else {})
    if url.startswith("sqlite"):

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "busy_timeout=60000", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

    return engine


def insert_once(db: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there already; say whether it was new."""
    from sqlalchemy.dialects.sqlite import insert

    return db.execute(insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1


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


def to_json(value: Any) -> str:
    """Canonical JSON text of a value; NaN and infinities become null."""
    from tidemill.core.digests import canonical_json

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

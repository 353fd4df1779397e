"""The Iceberg catalog in a SQL database, with tables kept in memory until somebody else commits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata

from tidemill.core.errors import CorruptError, not_found
from tidemill.ledger.opening import sqlite_path
from tidemill.ledger.queue import WriteQueue, queue_for
from tidemill.versioning.embedded import disk, moved
from tidemill.versioning.embedded.snapshots import fixed

NAME = "tidemill"
"""The catalog's name. Other engines must use the same one: under another they see an empty catalog, without an error."""
NAMESPACE = "lake"

_LOCATION = sa.text(
    "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
)
_GONE = (
    "the table {name!r} has lost its metadata: {path} is named by the catalog and not there; restore it, or the whole folder, from a backup"
)


class LocalCatalog(SqlCatalog):
    """pyiceberg's SQL catalog, made fast and durable for local files.

    A table's metadata is read once and again only when the catalog points elsewhere; metadata files are synced before the catalog
    points at them; commits take their turn in the database's writer queue (it may be the ledger's database).
    """

    def __init__(self, url: str, warehouse: Path) -> None:
        path = sqlite_path(url)
        self._queue: WriteQueue | None = queue_for(path) if path else None
        self._held: dict[str, Table] = {}
        self.place = warehouse
        with self.turn():
            super().__init__(NAME, uri=url, warehouse=f"file://{warehouse}")
            if path:
                self.engine.dispose()
                sa.event.listen(self.engine, "connect", _pragmas)
            if not self.namespace_exists(NAMESPACE):
                self.create_namespace(NAMESPACE)

    @contextlib.contextmanager
    def turn(self, *, durable: bool = True) -> Iterator[None]:
        """Be the only writer of the database; what was committed survives a killed process, and a power cut when `durable`."""
        if self._queue is None:
            yield
            return
        self._queue.enter()
        committed = False
        try:
            yield
            committed = True
        finally:
            number = self._queue.leave(committed=committed)
        if durable:
            self._queue.settle(number)

    def tables(self) -> list[str]:
        """Names of all tables."""
        return sorted(name for _, name in self.list_tables(NAMESPACE))

    def table(self, name: str) -> Table:
        """A table as it is now. Raises `NotFoundError`."""
        try:
            return self.load_table((NAMESPACE, name))
        except NoSuchTableError:
            raise not_found("table", name, self.tables()) from None

    def load_table(self, identifier: Any) -> Table:
        name = self.table_name_from(identifier)
        location = self._location(name)
        while True:
            held = self._held.get(name)
            if held is not None and held.metadata_location == location:
                return held
            if location is not None:
                moved.refuse(location, name, self.place)
            try:
                self._held[name] = fixed(super().load_table(identifier))
            except FileNotFoundError as error:  # a reader that is slow, as a training of low priority is: commits delete old metadata
                read, location = location, self._location(name)
                if location == read:
                    raise CorruptError(_GONE.format(name=name, path=disk.local(str(read)))) from error
            else:
                return self._held[name]

    def commit(self, table: Table, updates: Sequence[Any], *, durable: bool = True) -> Table:
        """Commit updates and return the table as it is then. Raises pyiceberg's `CommitFailedException` when somebody else was first."""
        with self.turn(durable=durable):
            self.commit_table(table, (), tuple(updates))
        return self._held[self.table_name_from(table.name())]

    def _location(self, name: str) -> str | None:
        with self.engine.connect() as db:
            location: str | None = db.execute(_LOCATION, {"catalog": NAME, "namespace": NAMESPACE, "name": name}).scalar()
        return location

    def commit_table(self, table: Table, requirements: tuple[Any, ...], updates: tuple[Any, ...]) -> CommitTableResponse:
        name = self.table_name_from(table.name())
        if self._location(name) != table.metadata_location:
            raise CommitFailedException(f"{name} was changed by another writer")
        response = super().commit_table(table, requirements, updates)
        self._held[name] = Table(table.name(), response.metadata, response.metadata_location, table.io, self)
        for gone in {entry.metadata_file for entry in table.metadata.metadata_log} - {
            e.metadata_file for e in response.metadata.metadata_log
        }:
            disk.local(gone).unlink(missing_ok=True)
        return response

    @staticmethod
    def _write_metadata(metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # noqa: ARG004 - pyiceberg's signature
        disk.write(disk.local(metadata_path), metadata.model_dump_json(exclude_none=True).encode())
        disk.sync()


def _pragmas(connection: Any, _record: Any) -> None:
    for pragma in ("busy_timeout=60000", "journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")

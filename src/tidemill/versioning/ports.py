"""Versions of data: tables by snapshot, files and folders by digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One immutable version of a table. `rows` is the total, `added` what this one brought; `summary` holds its properties (text)."""

    table: str
    id: int
    parent: int | None
    committed_us: int
    rows: int
    added: int
    summary: Mapping[str, str] = field(default_factory=dict)
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """Where the rows of one snapshot are: Parquet files without row-level deletes, so any engine can read them directly.

    `paths` are local and in the order of ingestion. A column of `schema` that is younger than a file is not in it and counts as null
    (DuckDB: `read_parquet(paths, union_by_name = true)`; Arrow: `dataset(paths, schema=scan.schema)`).
    """

    table: str
    snapshot_id: int | None
    schema: pa.Schema
    paths: tuple[str, ...]


class TableStore(Protocol):
    """Versioned tables with branches, for write-audit-publish.

    Guarantees, each checked by `tidemill.testing.versioning.TableStoreContract`:
        isolated: rows appended to a branch are not in `main` until published, and stay readable on the branch if never published.
        atomic: `publish` moves `main` to the branch's rows in one step; a crash leaves all or nothing.
        idempotent: an append with a `batch` that its table has taken before (on main or the branch) adds nothing.
        immutable: a snapshot that is tagged, or younger than the retention, reads the same for ever.
        serial: `publish` of a branch that main has moved past is redone on top of main, never lost.
        forgotten: rows that a maintenance forgets are in no later snapshot, and no other row is touched.
        additive: `create` with more columns adds them, nullable; a change of type is an `InvalidError`.
    """

    def create(self, table: str, schema: pa.Schema) -> None:
        """Make the table, or add the columns it lacks."""
        ...

    def append(self, table: str, rows: pa.Table, *, batch: str, branch: str) -> Snapshot:
        """Write `rows` to `branch` (made from main when new); `main` itself is a branch. Raises `NotFoundError`, `InvalidError` for wrong columns."""
        ...

    def publish(self, table: str, branch: str) -> Snapshot:
        """Fast-forward main to `branch` and drop the branch's name."""
        ...

    def scan(self, table: str, at: int | str | None = None) -> Scan:
        """Locate the rows at a snapshot id, branch or tag (default main). An empty table has no paths."""
        ...

    def snapshots(self, table: str | None = None) -> list[Snapshot]:
        """The newest snapshot of every table, or all kept ones of one table, newest first."""
        ...

    def tag(self, table: str, snapshot_id: int, name: str) -> None:
        """Keep a snapshot for ever under `name`; doing it again is a no-op."""
        ...

    def maintain(self, table: str, *, now_us: int, keep_us: int, forget: tuple[str, int] | None = None) -> Mapping[str, int]:
        """Compact small files and expire untagged snapshots older than `keep_us`; rows do not change. Returns counts of what was done.

        `forget` names a column of times and an instant: rows before it leave main, and are gone with the snapshots that have them.
        """
        ...


class BlobStore(Protocol):
    """Files and folders by the digest of what they hold.

    Guarantees, each checked by `tidemill.testing.versioning.BlobStoreContract`:
        verified: `fetch` never answers bytes that differ from the digest; it raises `CorruptError` naming both digests.
        atomic: an interrupted `put` leaves nothing under the digest.
        idempotent: equal content has one digest and is stored once.
    """

    def put(self, source: Path | bytes) -> str:
        """Store bytes, a file or a folder; return its digest."""
        ...

    def fetch(self, digest: str) -> Path:
        """A local, read-only path of the verified content. Raises `NotFoundError`, `CorruptError`."""
        ...

    def size_bytes(self, digest: str) -> int:
        """Bytes stored under `digest`. Raises `NotFoundError`."""
        ...

    def remove(self, digests: Sequence[str]) -> int:
        """Delete what exists of `digests`; return the bytes freed."""
        ...

"""Rows of published tables, in pieces that fit memory: those that can still count, or those of files not taken yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.versioning.ports import Scan

ROWS = 200_000
"""Rows of a piece, about."""
_US = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Published:
    """What is published of a table: where its rows are, and after how many batches."""

    table: Table
    scan: Scan
    batches: int


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a state has taken a table: batches published by then, and the names (hashed) of the files whose rows are all in.

    `offsets`: of the topics that its events come in, by id, how far each partition has been taken; a topic that is not named has not been followed.
    """

    batches: int = 0
    files: frozenset[str] = frozenset()
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Mark:
        """From what `text` wrote; nothing taken for an empty text."""
        found = json.loads(text) if text else {}
        offsets = {topic: tuple(place) for topic, place in found.get("offsets", {}).items()}
        return cls(found.get("batches", 0), frozenset(found.get("files", ())), offsets)

    def text(self) -> str:
        """For `StreamProcessor.commit`."""
        followed = {"offsets": self.offsets} if self.offsets else {}
        return json.dumps({"batches": self.batches, "files": sorted(self.files), **followed})


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows, and the files that are all in once they are."""

    rows: pa.Table
    files: frozenset[str]


def file_name(path: str) -> str:
    """What a mark calls a file."""
    return hashlib.sha256(path.encode()).hexdigest()[:12]


def missing(published: Published, mark: Mark) -> list[str]:
    """Paths of files that a state has not taken yet. None, if no batch has come since: then rows were only rewritten."""
    if published.batches == mark.batches and mark.files:
        return []
    return [path for path in published.scan.paths if file_name(path) not in mark.files]


def count_rows(published: Published, paths: Sequence[str]) -> int:
    """How many rows files have, from their footers."""
    return int(_dataset(published.scan, paths).count_rows()) if paths else 0


def new_rows(
    published: Published, paths: Sequence[str], *, from_us: int | None = None, until_us: int | None = None, matching: Any = None
) -> Iterator[Piece]:
    """Rows of some files in the order of ingestion: those known in [from_us, until_us], and those for which an expression of `pyarrow.dataset` holds.

    A file that has rows known only after `until_us` is not all in.
    """
    waiting: list[pa.Table] = []
    names: set[str] = set()
    for path in paths:
        rows = _known_between(published.table, _dataset(published.scan, [path]).to_table(filter=matching), from_us, None)
        kept = _known_between(published.table, rows, None, until_us)
        waiting.append(kept)
        if kept.num_rows == rows.num_rows:
            names.add(file_name(path))
        if sum(t.num_rows for t in waiting) >= ROWS:
            yield Piece(pa.concat_tables(waiting, promote_options="default"), frozenset(names))
            waiting, names = [], set()
    if waiting:
        yield Piece(pa.concat_tables(waiting, promote_options="default"), frozenset(names))


def relevant_rows(published: Published, paths: Sequence[str], since_us: int, until_us: int | None = None) -> Iterator[Piece]:
    """Rows that can count from `since_us` on, in the order of ingestion, and the one that became known last, which tells how old the others are.

    A row counts no more when it happened and became known before. Yet if another row of its key still counts, it may say until when,
    and has to go in together with it: then all rows are one piece.
    """
    table, scan = published.table, published.scan
    recent, whole = _recent(table, scan, paths, since_us), False
    if recent is not None and table.keys:
        everything = _dataset(scan, paths)
        alive = everything.to_table(columns=[table.keys[0]], filter=recent).column(0).unique()
        both = recent | ds.field(table.keys[0]).isin(alive)
        whole = everything.count_rows(filter=both) > everything.count_rows(filter=recent)
        recent = both if whole else recent
    pieces = new_rows(published, paths, until_us=until_us, matching=recent)
    if not whole:
        yield from pieces
        return
    found = list(pieces)
    if found:
        yield Piece(pa.concat_tables([p.rows for p in found], promote_options="default"), frozenset().union(*(p.files for p in found)))


def _dataset(scan: Scan, paths: Sequence[str]) -> Any:
    return ds.dataset([p.removeprefix("file://") for p in paths], schema=scan.schema, format="parquet")


def _recent(table: Table, scan: Scan, paths: Sequence[str], since_us: int) -> Any:
    if since_us <= 0 or not {table.event_time, table.known_time} <= set(scan.schema.names):
        return None
    since = pa.scalar(since_us, pa.int64()).cast(_US)
    recent = (ds.field(table.event_time) >= since) | (ds.field(table.known_time) >= since)
    last = pc.max(_dataset(scan, paths).to_table(columns=[table.known_time]).column(0)) if paths else None
    return recent | (ds.field(table.known_time) >= last) if last is not None and last.is_valid else recent


def _known_between(table: Table, rows: pa.Table, from_us: int | None, until_us: int | None) -> pa.Table:
    if from_us is None and until_us is None:
        return rows
    if table.known_time not in rows.column_names:
        raise InvalidError(f"table {table.name!r} has no column {table.known_time!r}; it has {', '.join(rows.column_names)}")
    known = pc.cast(rows[table.known_time], _US, safe=False).cast(pa.int64())
    if from_us is not None:
        rows, known = rows.filter(pc.greater_equal(known, from_us)), known.filter(pc.greater_equal(known, from_us))
    return rows if until_us is None else rows.filter(pc.less_equal(known, until_us))

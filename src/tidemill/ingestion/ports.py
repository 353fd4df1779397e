"""Where rows come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from tidemill.core.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that arrive together. `id` names their content; `cursor` is where to go on after them; `available_us` is when they came.

    `origin` says where they are from, for people; `digest` is that of the bytes they were read from, where there are such.
    """

    id: str
    rows: pa.Table
    cursor: str
    available_us: int
    origin: str
    digest: str = ""


class UnreadableError(InvalidError):
    """A batch came whose rows cannot be read (a broken file); reading goes on behind `cursor`."""

    def __init__(self, message: str, *, id: str, cursor: str, available_us: int, origin: str) -> None:  # noqa: A002 - as in Batch
        """`id`, `cursor`, `available_us` and `origin` as the batch would have had them."""
        super().__init__(message)
        self.id, self.cursor, self.available_us, self.origin = id, cursor, available_us, origin


class Source(Protocol):
    """Rows in batches, in a stable order. Times are timestamp('us', 'UTC').

    Guarantees, each checked by `tidemill.testing.ingestion.SourceContract`:
        resumable: reading after a batch's cursor gives the batches behind it, none twice, none left out.
        patient: a batch whose `available_us` is after `until_us` is not given, nor any behind it.
        repeatable: the same batch read twice has the same id and equal rows.
        honest: a batch that cannot be read raises `UnreadableError` in its place; the batches behind its cursor can be had.
    """

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        """Yield batches behind the cursor `after` (None: from the start) that had come by `until_us`. Raises `UnavailableError`, `UnreadableError`."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One pushed record; `offset` counts from 0 without gaps within a topic."""

    offset: int
    body: bytes


class Stream(Protocol):
    """An append-only log of records per topic.

    Guarantees, each checked by `tidemill.testing.ingestion.StreamContract`:
        ordered: offsets grow by one; reading from an offset gives what was appended, in order, for every reader.
        durable: what `append` returned for survives kill -9.
        whole: records of one `append` are all there or none.
    """

    def append(self, topic: str, bodies: Sequence[bytes]) -> int:
        """Add records; return the offset behind the last one."""
        ...

    def read(self, topic: str, offset: int, *, limit: int = 10_000) -> list[Record]:
        """Up to `limit` records from `offset` on."""
        ...

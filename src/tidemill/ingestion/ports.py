"""Where rows come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that arrive together. `id` names their content; `cursor` is where to go on after them; `available_us` is when they came."""

    id: str
    rows: pa.Table
    cursor: str
    available_us: int
    origin: str


class Source(Protocol):
    """Rows in batches, in a stable order.

    Guarantees, each checked by `tidemill.testing.ingestion.SourceContract`:
        resumable: reading after a batch's cursor gives the batches behind it, none twice, none left out.
        patient: a batch whose `available_us` is after `until_us` is not given, nor any behind it.
        repeatable: the same batch read twice has the same id and equal rows.
    """

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        """Yield batches behind the cursor `after` (None: from the start) that had come by `until_us`. Raises `UnavailableError`, `InvalidError` for rows that cannot be read."""
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

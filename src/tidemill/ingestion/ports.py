"""Where rows come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
    """One record of a topic. `offset` rises within its partition; `at_us` is when the stream took it, 0 where it does not say."""

    offset: int
    body: bytes
    at_us: int = 0
    partition: int = 0


class Extent(NamedTuple):
    """What a partition has: offsets from `first` (more than 0 once a stream has let go of old records) up to, not including, `end`."""

    first: int
    end: int


class Stream(Protocol):
    """An append-only log of records per topic, in one or several partitions that are numbered from 0.

    Guarantees, each checked by `tidemill.testing.ingestion.StreamContract`:
        ordered: offsets grow within a partition; reading from an offset gives what was appended from there on, in order, for every reader.
        durable: what `append` returned for survives kill -9.
        whole: records of one `append` are in one partition, one behind the other, all there or none.
        measured: `extent` tells where each partition begins and ends; what was appended lies before its end.
        timed: a record says when the stream took it, by the stream's clock, in microseconds.
    """

    def append(self, topic: str, bodies: Sequence[bytes]) -> int:
        """Add records; return the offset behind the last one (of the first partition when there are none to add). Raises `InvalidError` for more than fit one append, `UnavailableError`."""
        ...

    def read(self, topic: str, offset: int, *, limit: int = 10_000, partition: int = 0) -> list[Record]:
        """Up to `limit` records of a partition from `offset` on, or from its first one where that is gone. Raises `UnavailableError`."""
        ...

    def extent(self, topic: str) -> list[Extent]:
        """What each partition of a topic has; a topic that nobody has made has one empty partition. Raises `UnavailableError`."""
        ...


@dataclass(frozen=True, slots=True)
class Topic:
    """Where the events of a table come in: a topic of a stream. `id` names both over restarts, without secrets: offsets are kept under it."""

    stream: Stream
    name: str
    id: str

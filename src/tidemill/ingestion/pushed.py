"""Rows that were pushed, as a source: JSON objects in a topic of a stream.

Where a batch ends is written to a topic of its own (`<topic>-cuts`) before the batch is given, so that whoever is killed and
reads again gets the same batches, however much has been pushed since.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidemill.core import digests, ids
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant
from tidemill.ingestion.conform import TIME, storable
from tidemill.ingestion.ports import Batch, Stream, UnreadableError

LARGEST = 50_000
"""Records in a batch, at most."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A batch: the records in [start, end), closed at `at_us`."""

    start: int
    end: int
    at_us: int


class PushedSource:
    """A `Source` over what `POST /api/v1/tables/NAME/rows` took in. A batch is what had come when it was asked for."""

    def __init__(self, stream: Stream, table: Table) -> None:
        self._stream, self._table = stream, table
        self._topic, self._cuts_topic = table.name, f"{table.name}-cuts"
        self._cuts: list[_Cut] = []
        self._seen = 0  # records of the topic of cuts

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        """Give the closed batches behind `after`, then close one over what has come since."""
        start = _offset(after)
        self._catch_up()
        index = bisect_left(self._cuts, start, key=lambda cut: cut.start)
        while index < len(self._cuts) or self._close(until_us):
            cut = self._cuts[index]
            if cut.at_us > until_us:
                return
            yield self._batch(cut)
            index += 1

    def _close(self, until_us: int) -> bool:
        """Close a batch over the records behind the last one, if there are any; say whether there is a further batch."""
        start = self._cuts[-1].end if self._cuts else 0
        if came := len(self._stream.read(self._topic, start, limit=LARGEST)):
            self._stream.append(self._cuts_topic, [json.dumps([start + came, until_us]).encode()])
            self._catch_up()
        return came > 0

    def _catch_up(self) -> None:
        """Note the cuts made since; one that is not ahead was made by two at the same time, and counts for nothing."""
        while records := self._stream.read(self._cuts_topic, self._seen):
            for record in records:
                end, at_us = json.loads(record.body)
                last = self._cuts[-1] if self._cuts else _Cut(0, 0, 0)
                if end > last.end:
                    self._cuts.append(_Cut(last.end, end, max(at_us, last.at_us)))
            self._seen = records[-1].offset + 1

    def _batch(self, cut: _Cut) -> Batch:
        bodies = [record.body for record in self._stream.read(self._topic, cut.start, limit=cut.end - cut.start)]
        digest, origin = digests.of_bytes(b"\n".join(bodies)), f"pushed {cut.start} to {cut.end}"
        batch_id = ids.derive("batch", self._table.name, origin, digest)
        try:
            return Batch(batch_id, self._rows(bodies), str(cut.end), cut.at_us, origin, digest)
        except (ValueError, TypeError, AttributeError, pa.ArrowException) as exc:
            message = f"{origin}: {exc}"
            raise UnreadableError(message, id=batch_id, cursor=str(cut.end), available_us=cut.at_us, origin=origin) from exc

    def _rows(self, bodies: list[bytes]) -> pa.Table:
        """The objects as columns: both clocks as instants (ISO 8601 or microseconds), values of mixed types as texts."""
        objects = [json.loads(body) for body in bodies]
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(key for row in objects for key in row):
            values = [row.get(name) for row in objects]
            if name in (self._table.event_time, self._table.known_time):
                instants = [parse_instant(v) if isinstance(v, str) else v for v in values]
                columns[name] = pa.array(instants, pa.int64()).cast(TIME)
            else:
                columns[name] = _array(values)
        return storable(pa.table(columns), self._table)


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError):
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdigit():
        raise InvalidError(f"{cursor!r} is not a cursor of pushed rows; start from the beginning (None)")
    return int(cursor)

"""Events of a stream as a source: JSON objects in a topic.

Where a batch ends is written to a topic of its own (`<table>-cuts`) before the batch is given, so that whoever is killed and reads
again gets the same batches, however much has come since. Records that are no rows are left out and quarantined.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.core import digests, ids
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.ingestion.eventquarantine import EventQuarantine
from tidemill.ingestion.events import SKEW_US, read_events, skew_of
from tidemill.ingestion.ports import Batch, Record, Stream, Topic, UnreadableError

LARGEST = 50_000
"""Records in a batch, at most."""
PUSHED = "pushed"
"""What the id of a topic begins with that takes what is pushed."""
Position = tuple[int, ...]
"""An offset in each partition, 0 in those that are not named."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A batch: the records from `start` up to `end`, closed at `at_us`."""

    start: Position
    end: Position
    at_us: int


class PushedSource:
    """A `Source` over the events of a topic: what `POST /api/v1/tables/NAME/rows` took in, or what others wrote there.

    A batch is what had come when it was asked for. `beside` is the stream that keeps the cuts and the quarantine.
    """

    def __init__(self, topic: Topic, table: Table, beside: Stream, *, skew_us: int = SKEW_US) -> None:
        self._topic, self._table, self._beside = topic, table, beside
        self._skew_us = skew_of(table, skew_us)
        self._quarantine = EventQuarantine(beside, table.name, topic.id)
        self._what = topic.id.partition("@")[0]
        own = "" if self._what == PUSHED else "-" + digests.of_bytes(topic.id.encode())[-8:]
        self._cuts_topic = f"{table.name}-cuts{own}"
        self._cuts: list[_Cut] = []
        self._seen = 0  # records of the topic of cuts

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        """Give the closed batches behind `after`, then close one over what has come since."""
        start = position(after)
        self._catch_up()
        index = bisect_left(self._cuts, sum(start), key=lambda cut: sum(cut.start))
        while index < len(self._cuts) or self._close(until_us):
            cut = self._cuts[index]
            if cut.at_us > until_us:
                return
            index += 1
            if batch := self._batch(cut):
                yield batch

    def _close(self, until_us: int) -> bool:
        """Close a batch over the records behind the last one, if there are any; say whether there is a further batch."""
        start = self._cuts[-1].end if self._cuts else ()
        extents = self._topic.stream.extent(self._topic.name)
        share = max(1, LARGEST // len(extents))
        end = []
        for partition in range(max(len(extents), len(start))):
            offset = at(start, partition)
            behind = partition < len(extents) and extents[partition].end > offset
            records = self._topic.stream.read(self._topic.name, offset, limit=share, partition=partition) if behind else []
            end.append(records[-1].offset + 1 if records else offset)
        if sum(end) == sum(start):
            return False
        cut = end[0] if len(end) == 1 else end
        self._beside.append(self._cuts_topic, [json.dumps([cut, until_us]).encode()])
        self._catch_up()
        return True

    def _catch_up(self) -> None:
        """Note the cuts made since; one that is not ahead was made by two at the same time, and counts for nothing."""
        while records := self._beside.read(self._cuts_topic, self._seen):
            for record in records:
                cut, at_us = json.loads(record.body)
                given = tuple(cut) if isinstance(cut, list) else (cut,)
                last = self._cuts[-1] if self._cuts else _Cut((), (), 0)
                end = tuple(max(at(given, i), at(last.end, i)) for i in range(max(len(given), len(last.end))))
                if sum(end) > sum(last.end):
                    self._cuts.append(_Cut(last.end, end, max(at_us, last.at_us)))
            self._seen = records[-1].offset + 1

    def _batch(self, cut: _Cut) -> Batch | None:
        """The batch of a cut; None where none of its records is a row."""
        records = [r for i in range(len(cut.end)) for r in self._records(i, at(cut.start, i), cut.end[i])]
        digest = digests.of_bytes(b"\n".join(r.body for r in records))
        origin = f"{self._what} {cursor(cut.start) or 0} to {cursor(cut.end)}"
        batch_id = ids.derive("batch", self._table.name, origin, digest)
        try:
            events = read_events(records, self._table, skew_us=self._skew_us)
        except (ValueError, TypeError, AttributeError, pa.ArrowException) as exc:
            message = f"{origin}: {exc}"
            raise UnreadableError(message, id=batch_id, cursor=cursor(cut.end), available_us=cut.at_us, origin=origin) from exc
        self._quarantine.note(events.refused)
        return Batch(batch_id, events.rows, cursor(cut.end), cut.at_us, origin, digest) if events.rows.num_rows else None

    def _records(self, partition: int, start: int, end: int) -> list[Record]:
        found: list[Record] = []
        while start < end and (some := self._topic.stream.read(self._topic.name, start, limit=end - start, partition=partition)):
            found += [r for r in some if r.offset < end]
            start = some[-1].offset + 1
        return found


def at(place: Sequence[int], partition: int) -> int:
    """The offset of a partition in a position."""
    return place[partition] if partition < len(place) else 0


def cursor(place: Sequence[int]) -> str:
    """How a position is written."""
    return ",".join(map(str, place))


def position(text: str | None) -> Position:
    """The position that a cursor means. Raises `InvalidError` for a cursor of something else."""
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise InvalidError(f"{text!r} is not a cursor of pushed rows; start from the beginning (None)")
    return tuple(map(int, parts))

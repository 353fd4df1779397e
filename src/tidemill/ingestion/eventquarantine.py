"""Events that were set aside: a topic `<table>-quarantine`, which keeps each with the reason and the place that it came from.

Whoever reads events notes what it refuses, the follower and ingestion alike. Both judge alike, and a place is kept once.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.ingestion.events import Refused
from tidemill.ingestion.ports import Stream

_LARGEST = 100_000
"""Bytes of a body that are kept; the whole of it is where it came from."""
_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One event that was set aside. `topic`, `partition` and `offset` say where it is, `came_us` when it came there."""

    kind: str
    reason: str
    topic: str
    partition: int
    offset: int
    came_us: int
    body: str


class EventQuarantine:
    """What was set aside of a table's events. Safe to use from several threads and processes."""

    def __init__(self, stream: Stream, table: str, topic_id: str = "") -> None:
        self._stream, self._topic, self._from = stream, f"{table}-quarantine", topic_id
        self._places: set[tuple[str, int, int]] = set()
        self._counts: Counter[str] = Counter()
        self._seen = 0
        self._lock = threading.Lock()

    def note(self, refused: Iterable[Refused]) -> int:
        """Keep what is not kept yet; durable when it returns. Return how many were new."""
        some = list(refused)
        if not some:
            return 0
        with self._lock:
            self._catch_up()
            new = [r for r in some if (self._from, r.record.partition, r.record.offset) not in self._places]
            for start in range(0, len(new), _TOGETHER):
                self._stream.append(self._topic, [self._text(r) for r in new[start : start + _TOGETHER]])
            self._catch_up()
            return len(new)

    def counts(self) -> Mapping[str, int]:
        """How many were set aside, by kind."""
        with self._lock:
            self._catch_up()
            return dict(self._counts)

    def newest(self, limit: int) -> list[Quarantined]:
        """The last ones, newest first; a place that two noted at the same time is told once."""
        end = self._stream.extent(self._topic)[0].end
        found: dict[tuple[str, int, int], Quarantined] = {}
        for record in self._stream.read(self._topic, max(0, end - 2 * limit), limit=2 * limit):
            one = Quarantined(**json.loads(record.body))
            found.setdefault((one.topic, one.partition, one.offset), one)
        return list(found.values())[::-1][:limit]

    def _text(self, one: Refused) -> bytes:
        r = one.record
        body = r.body[:_LARGEST].decode(errors="backslashreplace")
        kept: dict[str, Any] = {"kind": one.kind, "reason": one.reason, "topic": self._from, "partition": r.partition}
        return json.dumps(kept | {"offset": r.offset, "came_us": r.at_us, "body": body}).encode()

    def _catch_up(self) -> None:
        while records := self._stream.read(self._topic, self._seen):
            for record in records:
                one = json.loads(record.body)
                place = one["topic"], one["partition"], one["offset"]
                if place not in self._places:
                    self._places.add(place)
                    self._counts[one["kind"]] += 1
            self._seen = records[-1].offset + 1

"""Following streams: events go from their topics into online state as they come, each exactly once.

How far a state has come is in the state: a commit of the processor holds rows and offsets together. So whoever is killed and starts
again goes on from there, and nothing is lost or counted twice. Rows that come again, from the topic or by the published table,
change nothing.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from time import monotonic

import pyarrow as pa

from tidemill import ingestion
from tidemill.core.clock import Clock
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, LostError, UnavailableError
from tidemill.features.pieces import Mark
from tidemill.features.ports import StreamProcessor, ViewState
from tidemill.ingestion import EventQuarantine, read_events, skew_of
from tidemill.ingestion.events import Refused
from tidemill.ingestion.ports import Extent, Record, Stream, Topic
from tidemill.ingestion.pushed import Position, position
from tidemill.ledger import schema
from tidemill.ledger.store import emit, to_json, upsert
from tidemill.retraining import features
from tidemill.retraining.ports import Loop

logger = logging.getLogger(__name__)
_PAUSES_S = (0.5, 10.0)
"""How long to wait for a system that is away: at first, and at most."""
STREAM = "stream:"
"""What the names of facts about followed topics begin with."""


@dataclass(slots=True)
class Followed:
    """A topic that is followed. `begun` says where to begin for a state that has not followed it: how far ingestion has come.

    `schema` is what is published of the table, None as long as nothing is. `behind` counts the records that are still to be taken.
    """

    table: Table
    topic: Topic
    quarantine: EventQuarantine
    skew_us: int
    begun: Callable[[], Position] = tuple
    schema: pa.Schema | None = None
    taken: int = 0
    behind: int = 0
    _turn: int = field(default=0, repr=False)

    def read(self, start: Position, limit: int) -> tuple[list[Record], Position, Position]:
        """Up to `limit` records behind a position, the position behind them, and where the topic ends; each time another partition comes first."""
        extents = self.topic.stream.extent(self.topic.name)
        reached = [_within(start, i, extent) for i, extent in enumerate(extents)]
        found: list[Record] = []
        self._turn += 1
        for i in range(len(extents)):
            partition = (i + self._turn) % len(extents)
            asked = limit - len(found)
            if extents[partition].end > reached[partition] and asked:
                some = self.topic.stream.read(self.topic.name, reached[partition], limit=asked, partition=partition)
                reached[partition] = some[-1].offset + 1 if some else reached[partition]
                if len(some) < asked:  # what else lies before the end is no record, such as the end of a transaction
                    reached[partition] = max(reached[partition], extents[partition].end)
                found += some
        return found, tuple(reached), tuple(max(e.end, r) for e, r in zip(extents, reached, strict=True))


def _within(place: Position, partition: int, extent: Extent) -> int:
    """Where to read a partition on. One that ends before that was begun anew, and is read from its start."""
    offset = place[partition] if partition < len(place) else 0
    return max(extent.first, offset) if offset <= extent.end else extent.first


class Follower:
    """Takes events of topics into the online state of all published versions of the views that read their tables.

    Args:
        processor: the one writer of the online state.
        followed: the topics.
        clock: the present; state that is older than every window is let go of.
        batch: records of one commit, at most.
        writing: this process's turn to write online state.
    """

    def __init__(
        self,
        processor: StreamProcessor,
        followed: Iterable[Followed],
        clock: Clock,
        *,
        batch: int = 50_000,
        writing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._processor, self.followed, self._clock = processor, list(followed), clock
        self._batch, self._writing = batch, writing

    def turn(self) -> int:
        """Take what has come, a batch of each topic at most, and commit it; return how many records that were.

        Raises `UnavailableError` (also `LostError`) when a system is away; taking the turn again is safe.
        """
        with self._writing():
            try:
                return self._together(self.followed, self._batch)
            except InvalidError:  # some record cannot be taken; find it
                return sum(self._carefully(one) for one in self.followed)

    def _carefully(self, one: Followed) -> int:
        """Take a part of one topic; a record that cannot be taken even by itself is set aside."""
        limit = self._batch
        while True:
            try:
                return self._together([one], limit)
            except InvalidError as error:
                if limit == 1:
                    return self._together([one], limit, str(error))
                limit = max(1, limit // 4)

    def _together(self, topics: Sequence[Followed], limit: int, refuse: str = "") -> int:
        states = [s for s in self._processor.versions() if s.status in ("published", "complete")]
        self._processor.advance(self._clock.now_us())
        marks: dict[str, Mark] = {}
        took = sum(self._take(one, [s for s in states if s.view.table.name == one.table.name], marks, limit, refuse) for one in topics)
        if marks:
            self._processor.commit({digest: mark.text() for digest, mark in marks.items()})
        return took

    def _take(self, one: Followed, states: Sequence[ViewState], marks: dict[str, Mark], limit: int, refuse: str) -> int:
        """Push a topic's next records to the states that lack them, and note in `marks` how far each has come."""
        if not states:
            return 0
        before = {s.digest: marks.get(s.digest) or Mark.read(s.mark) for s in states}
        begun = one.begun() if any(one.topic.id not in mark.offsets for mark in before.values()) else ()
        places = {digest: mark.offsets.get(one.topic.id, begun) for digest, mark in before.items()}
        start = tuple(min(column) for column in zip_longest(*places.values(), fillvalue=0))
        records, reached, end = one.read(start, limit)
        one.behind = sum(end) - sum(reached)
        if records:
            self._push(one, records, states, refuse)
        if records or any(one.topic.id not in mark.offsets for mark in before.values()):
            for digest, mark in before.items():
                place = tuple(max(o, r) if o <= e else r for o, r, e in zip_longest(places[digest], reached, end, fillvalue=0))
                marks[digest] = replace(mark, offsets={**mark.offsets, one.topic.id: place})
        return len(records)

    def _push(self, one: Followed, records: Sequence[Record], states: Sequence[ViewState], refuse: str) -> None:
        events = read_events(records, one.table, skew_us=one.skew_us, schema=one.schema)
        refused = [Refused(r, "invalid", refuse) for r in records] if refuse else events.refused
        one.quarantine.note(refused)
        if events.rows.num_rows and not refuse:
            self._processor.push(one.table.name, _whole(events.rows, states), only=[s.digest for s in states])
        one.taken += len(records)

    def run(
        self,
        stop: threading.Event,
        *,
        feed: Callable[[], Mapping[str, pa.Schema]],
        note: Callable[[Sequence[Followed]], None],
        pause_s: float,
        feed_s: float,
        once: bool = False,
    ) -> None:
        """Take turns until `stop` is set; with `once`, until everything that is there has been taken.

        Args:
            stop: ends it behind the turn under way.
            feed: brings state up to date with published tables; gives what is published of each, by table.
            note: told how far each topic has been taken, about once a second.
            pause_s: how long to wait when nothing has come, in seconds.
            feed_s: how often to feed, in seconds.
            once: whether to end when nothing is left.
        """
        due, told, away = 0.0, 0.0, 0
        while not stop.is_set():
            try:
                if monotonic() >= due:
                    schemas = feed()
                    for one in self.followed:
                        one.schema = schemas.get(one.table.name)
                    due = monotonic() + feed_s
                took, away = self.turn(), 0
            except LostError as error:
                logger.warning("follow.lost", extra={"reason": str(error)})
                took, due, away = 0, 0.0, away + 1
            except UnavailableError as error:
                if once:
                    raise
                logger.warning("follow.away", extra={"reason": str(error)})
                took, away = 0, away + 1
            if monotonic() >= told + 1:
                note(self.followed)
                told = monotonic()
            if once and not took and not away and not any(one.behind for one in self.followed):
                break
            if not took:
                stop.wait(min(_PAUSES_S[0] * 2**away, _PAUSES_S[1]) if away else pause_s)
        note(self.followed)


def _whole(rows: pa.Table, states: Sequence[ViewState]) -> pa.Table:
    """Rows with every column that a view reads; what no event of a batch names is null."""
    views = [s.view for s in states]
    wanted = {*(k for v in views for k in v.keys), *(str(a.column) for v in views for a in v.aggregates if a.column)}
    for name in sorted(wanted - set(rows.column_names)):
        rows = rows.append_column(name, pa.nulls(rows.num_rows))
    return rows


def collect_less() -> None:
    """Let a process that only follows look for cyclic garbage less often: states are many and in no cycles, and looking takes a quarter of its time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def followed(loop: Loop, topics: Mapping[str, Mapping[str, Topic]], stream: Stream, *, skew_us: int) -> list[Followed]:
    """The topics that views of the definitions read, from all topics by table and source URL; `stream` keeps what is set aside."""
    read = {view.table.name for view in loop.definitions.views.values()}

    def begun(table: Table, url: str) -> Callable[[], Position]:
        return lambda: position(ingestion.begun(table, url, loop.ledger))

    return [
        Followed(table, topic, EventQuarantine(stream, table.name, topic.id), skew_of(table, skew_us), begun(table, url))
        for table in loop.definitions.tables.values()
        if table.name in read
        for url, topic in topics.get(table.name, {}).items()
    ]


def feeding(loop: Loop) -> Callable[[], dict[str, pa.Schema]]:
    """Brings online state up to date with published tables; gives the schemas of those that have rows."""

    def feed() -> dict[str, pa.Schema]:
        features.feed(loop)
        return {name: found.scan.schema for name, found in features.published(loop).items()}

    return feed


def noting(loop: Loop) -> Callable[[Sequence[Followed]], None]:
    """Keeps in the ledger how far each topic has been followed and how fresh views are; what has just been set aside is an event as well."""
    told: dict[str, int] = {}

    def note(all_: Sequence[Followed]) -> None:
        now = loop.clock.now_us()
        with loop.ledger.write(durable=False) as db:
            for one in all_:
                counts = one.quarantine.counts()
                value = {"table": one.table.name, "topic": one.topic.id, "taken": one.taken, "behind": one.behind, "quarantined": counts}
                name = f"{STREAM}{one.table.name}:{one.topic.id}"
                upsert(db, schema.state, {"name": name, "value": to_json(value), "at_us": now})
                before = told.setdefault(name, sum(counts.values()))
                if sum(counts.values()) > before:
                    body = {"topic": one.topic.id, "events": sum(counts.values()) - before, "in all": counts}
                    emit(db, "events.quarantined", one.table.name, body, at_us=now, actor="follower")
                    told[name] = sum(counts.values())
        features.refresh(loop)

    return note

"""Rows that were pushed and may not have reached the online state yet: the end of each table's topic.

The processor takes pushed rows once they are published, seconds later. Until then a reader sees them here, for `latest` features (without
`where`), which need nothing but the newest row. A row that the state has as well changes nothing, so it does not matter when exactly it gets there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import TidemillError
from tidemill.core.instants import parse_duration, parse_instant
from tidemill.ingestion.ports import Record, Stream

logger = logging.getLogger(__name__)
PAUSE_S = 0.05
"""How long what another process pushed may stay unseen."""
_BEHIND = 50_000
"""Records before the end that a new reader looks at."""
_KEYS = 200_000
"""Keys remembered; by then the processor has taken the older ones."""
_ROWS = 16
"""Rows remembered of one key: the newest, and what is still ahead."""


class Pushed(NamedTuple):
    """One pushed row as a view sees it: both times, and the values of its `latest` features by full name."""

    event_us: int
    known_us: int
    values: dict[str, Any]


class Tail:
    """The newest pushed rows by view and key. Safe to use from several threads.

    `skew_us`: how far the times of a row may lie ahead of its arrival, unless its table says otherwise; one further ahead is quarantined.
    """

    def __init__(self, stream: Stream, views: Iterable[FeatureView], skew_us: int) -> None:
        self._stream, self._skew_us = stream, skew_us
        self._lock = threading.Lock()
        self._looked = 0.0
        self.ttl_us: dict[str, int] = {}
        self._views: dict[str, list[tuple[FeatureView, list[tuple[str, str]]]]] = {}
        for view in views:
            newest = [a for a in view.aggregates if a.kind == "latest" and not a.where]
            if view.table.pushed_as and newest:
                self._views.setdefault(view.table.name, []).append((view, [(view.full_name(a), str(a.column)) for a in newest]))
                self.ttl_us |= {view.full_name(a): a.ttl_us for a in newest}
        self._offsets: dict[str, int] = {}
        self._rows: dict[tuple[str, Any], list[Pushed]] = {}

    def look(self, *, now: bool = False) -> None:
        """Take in what was pushed since; at most every `PAUSE_S` unless `now`. A stream that is away is passed over until the next time."""
        if not self._views or (monotonic() - self._looked < PAUSE_S and not now):
            return
        with self._lock:
            self._looked = monotonic()
            try:
                for table in self._views:
                    self._take(table)
            except TidemillError as error:
                logger.warning("pushed.unseen", extra={"reason": str(error)})

    def _take(self, table: str) -> None:
        if table not in self._offsets:
            self._offsets[table] = max(0, self._stream.extent(table)[0].end - _BEHIND)
        while records := self._stream.read(table, self._offsets[table]):
            for record in records:
                self._note(table, record)
            self._offsets[table] = records[-1].offset + 1

    def _note(self, table: str, record: Record) -> None:
        for view, newest in self._views[table]:
            try:
                row = msgspec.json.decode(record.body)
                event, known = _micros(row[view.table.event_time]), _micros(row[view.table.known_time])
                key = _key(view, row)
                values = {name: row[column] for name, column in newest}
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                continue  # the audit will tell of it
            skew_us = parse_duration(view.table.skew) if view.table.skew else self._skew_us
            if key is not None and not (record.at_us and max(event, known) > record.at_us + skew_us):
                self._keep((view.name, key), Pushed(event, known, values))

    def _keep(self, place: tuple[str, Any], row: Pushed) -> None:
        rows = sorted((*self._rows.get(place, ()), row), key=lambda r: r[:2])
        self._rows[place] = rows[-_ROWS:]  # one assignment: others read meanwhile
        if len(self._rows) > _KEYS:
            for old in list(self._rows)[: _KEYS // 2]:
                del self._rows[old]

    def newest(self, view: str, key: Any, at_us: int, after: tuple[int, int]) -> Pushed | None:
        """The newest row of a key that is visible at `at_us`, if it is newer than (event time, known time) `after`."""
        rows = self._rows.get((view, key))
        if not rows:
            return None
        best = None
        for row in rows:
            if row.event_us <= at_us and row.known_us <= at_us:
                best = row
        return best if best is not None and best[:2] > after else None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compare with."""
        return not self._rows


def _key(view: FeatureView, row: Mapping[str, Any]) -> Any:
    values = tuple(row[k] for k in view.keys)
    hash(values)
    if None in values:
        return None
    return values[0] if len(values) == 1 else values


def _micros(value: Any) -> int:
    return parse_instant(value) if isinstance(value, str) else int(value)

"""What the processor remembers of one table: rows that a correction may still take back, and rows it has seen.

Rows are kept as long as their event, or the news of it, lies within the longest window of the table's views and `REWIND_US` before;
a row that is older counts nowhere. So a state can also be made anew for a time that has passed (`history`): a loop that was killed
reads its last tick again. Rows are written as a log: each commit adds one segment, and one whose rows are all forgotten is dropped.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import msgspec

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.features.embedded.decode import Part, Taken
from tidemill.features.embedded.tiles import FOREVER, NEVER, Row, ViewPlan

REWIND_US = DAY_US
"""How far before the newest read a read may be."""
_MANY = 64
"""Segments beyond which opening the memory merges them."""

Kept = tuple[int, int, int, int, tuple[Part, ...]]
"""Known time, number in the order of ingestion, event time, digest, parts by view."""


class TableMemory:
    """Revisions of each identity, in the order in which they count."""

    def __init__(self, table: Table, plans: Sequence[ViewPlan], digest: str) -> None:
        self.table, self.plans, self.digest = table, plans, digest
        self.retention = max(p.retention for p in plans)
        self.known_us = NEVER
        self._floor = NEVER
        self._index: dict[tuple[str, Any], list[tuple[Row, int, int]]] | None = None
        self._number = 0
        self._revisions: dict[Any, list[Kept]] = {}
        self._horizons: list[tuple[int, int, Any]] = []
        self._unsaved: list[Any] = []
        self._segments: list[tuple[int, int]] = []
        self._next = 0
        self._dead: list[int] = []

    def take(self, taken: Taken) -> tuple[Kept, int, Kept | None] | None:
        """Remember a row. Answer it with its end and the revision that it shortens, or None when it is known already."""
        identity, event, known, digest, parts = taken
        revisions = self._revisions.get(identity)
        if revisions is None:
            revisions = self._revisions[identity] = []
        elif any(r[0] == known and r[2] == event and r[3] == digest for r in revisions):
            return None
        self._number += 1
        kept = (known, self._number, event, digest, parts)
        place = bisect_right(revisions, (known, FOREVER))
        revisions.insert(place, kept)
        end = revisions[place + 1][0] if place + 1 < len(revisions) else FOREVER
        self._note(identity, kept)
        self._unsaved.append((identity, *kept))
        self._index = None
        return kept, end, revisions[place - 1] if place else None

    def _note(self, identity: Any, kept: Kept) -> None:
        heappush(self._horizons, (_horizon(kept), kept[1], identity))
        self.known_us = max(self.known_us, kept[0])

    def history(self, plan: ViewPlan, key: Any, at: int) -> list[tuple[Row, int, int]]:
        """Rows of a key with the interval in which each counts. Raises `InvalidError` when rows that counted at `at` are forgotten."""
        if at - plan.retention < self._floor:
            raise InvalidError(
                f"feature view {plan.view.name!r} can be read online from {format_instant(self._floor + plan.retention)} on, not at "
                f"{format_instant(at)}; ask the offline store for the past"
            )
        if self._index is None:
            self._index = {}
            for revisions in self._revisions.values():
                ends = [*(r[0] for r in revisions[1:]), FOREVER]
                for (known, number, event, _, parts), end in zip(revisions, ends, strict=True):
                    for named, part in zip(self.plans, parts, strict=True):
                        if part is not None:
                            item = ((event, known, number, part[1]), max(event, known), end)
                            self._index.setdefault((named.view.name, part[0]), []).append(item)
        return self._index.get((plan.view.name, key), [])

    def __contains__(self, identity: object) -> bool:
        return identity in self._revisions

    def horizon(self, clock: int) -> int:
        """What lies before cannot matter to a read from `clock` less `REWIND_US` on."""
        return clock - self.retention - REWIND_US

    def forget(self, clock: int) -> None:
        """Drop identities that cannot matter from `clock` less `REWIND_US` on, and segments that hold nothing else."""
        before = self._floor = max(self._floor, self.horizon(clock))
        self._index = None
        while self._horizons and self._horizons[0][0] < before:
            identity = heappop(self._horizons)[2]
            revisions = self._revisions.get(identity)
            if revisions and all(_horizon(r) < before for r in revisions):
                del self._revisions[identity]
        self._unsaved = [u for u in self._unsaved if u[0] in self._revisions]
        self._dead += [n for n, horizon in self._segments if horizon < before]
        self._segments = [s for s in self._segments if s[1] >= before]

    def save(self, clock: int) -> tuple[dict[tuple[str, str], bytes], str]:
        """The states to write (a new segment of the log, if rows came) and the table's cursor."""
        states: dict[tuple[str, str], bytes] = {}
        if self._unsaved:
            states[_segment(self.table, self._next), "rows"] = msgspec.msgpack.encode(self._unsaved)
            self._segments.append((self._next, max(_horizon(r[1:]) for r in self._unsaved)))
            self._next += 1
            self._unsaved = []
        body = {
            "digest": self.digest,
            "known_us": self.known_us,
            "clock_us": clock,
            "floor_us": self._floor,
            "number": self._number,
            "segments": self._segments,
            "next": self._next,
            "dead": self._dead,
        }
        return states, json.dumps(body)

    def drop_dead(self) -> list[str]:
        """Names of the segments that nothing points to any more; they are the caller's to clear."""
        dead, self._dead = self._dead, []
        return [_segment(self.table, n) for n in dead]

    def load(self, cursor: Mapping[str, Any], bodies: Sequence[bytes | None]) -> None:
        """Go on from a cursor and the segments that it names."""
        self.known_us, self._floor = cursor["known_us"], cursor["floor_us"]
        self._number, self._next = cursor["number"], cursor["next"]
        self._segments, self._dead = [tuple(s) for s in cursor["segments"]], list(cursor["dead"])
        everything: list[Any] = []
        for body in bodies:
            everything += [self._restore(*row) for row in msgspec.msgpack.decode(body)] if body else []
        for identity, *rest in everything:
            kept: Kept = tuple(rest)
            revisions = self._revisions.setdefault(identity, [])
            revisions.insert(bisect_right(revisions, kept[:2]), kept)
            self._note(identity, kept)
        if len(self._segments) > _MANY:
            self._dead += [n for n, _ in self._segments]
            self._segments, self._unsaved = [], everything

    def _restore(self, identity: Any, known: int, number: int, event: int, digest: int, parts: list[Any]) -> tuple[Any, ...]:
        if isinstance(identity, list):
            identity = tuple(identity)
        restored = [p if p is None else (tuple(p[0]) if isinstance(p[0], list) else p[0], p[1]) for p in parts]
        return identity, known, number, event, digest, tuple(restored)


def segments(table: Table, cursor: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the segments that a cursor names are stored."""
    return [(_segment(table, n), "rows") for n, _ in cursor["segments"]]


def _segment(table: Table, number: int) -> str:
    return f"{table.name}~{number}"


def _horizon(kept: Sequence[Any]) -> int:
    known: int = kept[0]
    event: int = kept[2]
    return known if event == FOREVER else max(known, event)

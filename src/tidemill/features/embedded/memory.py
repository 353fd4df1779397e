"""What the processor remembers of one table: rows that a correction may still take back, and rows it has seen.

Rows are kept as long as their event, or the news of it, lies within the longest window of the table's views and `REWIND_US` before;
a row that is older counts nowhere. So a state can also be made anew for a time that has passed (`history`): a loop that was killed
reads its last tick again. Rows are written as a log: each commit adds one segment, eight of one size become one, and a segment whose
rows are all forgotten is dropped. Rows that came in bulk are remembered by their hashes only; their values are looked up in the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.features.embedded import decode
from tidemill.features.embedded.decode import Batch, horizon
from tidemill.features.embedded.hashing import UInt64
from tidemill.features.embedded.index import Index
from tidemill.features.embedded.published import Lookup, lookup_files
from tidemill.features.embedded.rows import RowStore
from tidemill.features.embedded.source import Int64
from tidemill.features.embedded.tiles import FOREVER, NEVER, Row, ViewPlan

REWIND_US = DAY_US
"""How far before the newest read a read may be."""
FORMAT = 2
"""Of states and segments; another one makes a table stale."""
_TOGETHER = 8
"""So many segments of one level become one of the next."""
_BARE = 250_000
"""Rows without values in one segment."""
_FULL_BYTES = 16 << 20
"""A segment that would be larger becomes several, which stay as they are; a store takes bodies of a limited size."""
_LASTING = -1
"""The level of a segment that is never merged."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows that are new, each with the time at which it is superseded, and remembered rows whose time has become another one."""

    batch: Batch
    number: Int64
    end: Int64
    shortened: Int64
    old_end: Int64
    new_end: Int64


class TableMemory:
    """Revisions of each identity, in the order in which they count: by known time, then by number."""

    def __init__(self, table: Table, plans: Sequence[ViewPlan], digest: str, lookup: Lookup | None = None) -> None:
        self.table, self.plans, self.digest, self.lookup = table, plans, f"{FORMAT}:{digest}", lookup
        self.retention = max(p.retention for p in plans)
        self.known_us = NEVER
        self.rows = RowStore()
        self._floor = NEVER
        self._paths: list[str] = []
        self._number = 0
        self._saved = 0
        self._kinds: dict[str, str] = {}
        self._tidy_at = 4096
        self._by_identity = Index()
        self._by_key: dict[str, Index] = {}
        self._segments: list[tuple[int, int, int, int, int]] = []
        self._next = 0
        self._dead: list[int] = []

    def recent(self, batch: Batch, clock: int) -> Batch:
        """Leave out rows that can count nowhere: neither they nor another row of their identity lies within the horizon."""
        since = max(self.horizon(clock), self._floor)
        keep = horizon(batch.event, batch.known) >= since
        if keep.all():
            return batch
        keep |= np.isin(batch.identity, batch.identity[keep])
        old = np.flatnonzero(~keep)
        place, number = self._by_identity.find(batch.identity[old])
        alive = self.rows.horizon[self.rows.places(number)] >= since
        keep[old[place[alive]]] = True
        return batch.take(np.flatnonzero(keep))

    def take(self, batch: Batch) -> Taken:
        """Remember the rows that are new."""
        order = np.argsort(batch.identity, kind="stable")
        identity = batch.identity[order]
        again = np.zeros(len(batch), dtype=bool)
        again[1:] = identity[1:] == identity[:-1]
        place, number = self._by_identity.find(identity)
        if not len(place) and not again.any():
            end = np.full(len(batch), FOREVER, dtype=np.int64)
            none = np.zeros(0, dtype=np.int64)
            return self._remember(batch, end, none, none, none)
        again[:-1] |= again[1:]
        again[place] = True
        mine, theirs = np.sort(order[again]), self.rows.places(np.unique(number))
        mine, twice = self._without_known(batch, mine, theirs)
        keep = np.ones(len(batch), dtype=bool)
        keep[twice] = False
        return self._revise(batch.take(np.flatnonzero(keep)), (np.cumsum(keep) - 1)[mine], theirs)

    def _without_known(self, batch: Batch, mine: Int64, theirs: Int64) -> tuple[Int64, Int64]:
        """Rows of the batch that differ from all remembered ones and all before them; and those that do not."""
        store = self.rows
        words = [
            np.concatenate([kept[theirs].view(np.int64), given[mine].view(np.int64)])
            for kept, given in (
                (store.identity, batch.identity),
                (store.known, batch.known),
                (store.event, batch.event),
                (store.digest, batch.digest),
            )
        ]
        order = np.lexsort(words[::-1])
        same = np.ones(len(order) - 1, dtype=bool)
        for word in words:
            same &= word[order][1:] == word[order][:-1]
        twice = order[1:][same] - len(theirs)
        known = np.zeros(len(mine), dtype=bool)
        known[twice] = True
        return mine[~known], mine[known]

    def _revise(self, batch: Batch, mine: Int64, theirs: Int64) -> Taken:
        """Find out when each row of identities with several revisions is superseded."""
        store, end = self.rows, np.full(len(batch), FOREVER, dtype=np.int64)
        identity = np.concatenate([store.identity[theirs], batch.identity[mine]])
        known = np.concatenate([store.known[theirs], batch.known[mine]])
        order = np.concatenate([store.number[theirs], self._number + 1 + mine])
        ends = ends_of(identity, known, order)
        before = ends_of(store.identity[theirs], store.known[theirs], store.number[theirs])
        end[mine] = ends[len(theirs) :]
        changed = np.flatnonzero(ends[: len(theirs)] != before)
        return self._remember(batch, end, theirs[changed], before[changed], ends[changed])

    def _remember(self, batch: Batch, end: Int64, shortened: Int64, old: Int64, new: Int64) -> Taken:
        number = self._number + 1 + np.arange(len(batch))
        if len(batch):
            self._number += len(batch)
            self.rows.add(number, batch)
            self._by_identity.add(batch.identity, number)
            for plan in self.plans:
                if index := self._by_key.get(plan.view.name):
                    index.add(decode.key_words(plan, batch.columns), number)
            self.known_us = max(self.known_us, int(batch.known.max()))
        return Taken(batch, number, end, shortened, old, new)

    def take_bulk(self, batch: Batch, floor: int, paths: Sequence[str]) -> tuple[Batch, Int64, Int64]:
        """Remember the hashes of a whole table's rows, in the order of ingestion; only for a memory that has none yet.

        What lies before `floor` is left out; `paths` are the files that they are in. Answer the rows that are left, their numbers and ends.
        """
        self.known_us = int(batch.known.max(initial=NEVER))
        keep = np.flatnonzero(horizon(batch.event, batch.known) >= floor)
        if self.table.keys and len(keep) < len(batch):
            keep = np.flatnonzero(np.isin(batch.identity, batch.identity[keep]))
        batch, end = self._once(batch.take(keep))
        number = 1 + np.arange(len(batch))
        self.rows.add(number, batch, bare=True)
        self._by_identity.add(batch.identity, number)
        self._number, self._floor, self._paths = len(batch), floor, list(paths)
        return batch, number, end

    def _once(self, batch: Batch) -> tuple[Batch, Int64]:
        """Leave out rows that are there twice; answer the rest, and when each is superseded."""
        end = np.full(len(batch), FOREVER, dtype=np.int64)
        order = np.argsort(batch.identity)
        again = np.zeros(len(batch), dtype=bool)
        again[1:] = batch.identity[order][1:] == batch.identity[order][:-1]
        if not again.any():
            return batch, end
        again[:-1] |= again[1:]
        several = np.sort(order[again])
        several, twice = self._without_known(batch, several, np.zeros(0, dtype=np.int64))
        end[several] = ends_of(batch.identity[several], batch.known[several], several)
        wanted = np.ones(len(batch), dtype=bool)
        wanted[twice] = False
        rest = np.flatnonzero(wanted)
        return batch.take(rest), end[rest]

    def history(self, plan: ViewPlan, key: Any, at: int) -> list[tuple[Row, int, int]]:
        """Rows of a key with the interval in which each counts. Raises `InvalidError` when rows that counted at `at` are forgotten."""
        if at - plan.retention < self._floor:
            raise InvalidError(
                f"feature view {plan.view.name!r} can be read online from {format_instant(self._floor + plan.retention)} on, not at "
                f"{format_instant(at)}; ask the offline store for the past"
            )
        place, columns = self._rows_of_key(plan, key)
        if not len(place):
            return []
        return self.as_rows(plan, place, columns, self.ends(place))

    def as_rows(self, plan: ViewPlan, place: Int64, columns: pa.Table, end: Int64) -> list[tuple[Row, int, int]]:
        """Rows at positions of the store with their values, as plans take them: the row, from when and until when it counts."""
        event, known, number = (a[place].tolist() for a in (self.rows.event, self.rows.known, self.rows.number))
        made = zip(event, known, number, decode.values(plan, columns), strict=True)
        return [(row, max(row[0], row[1]), until) for row, until in zip(made, end.tolist(), strict=True)]

    def _rows_of_key(self, plan: ViewPlan, key: Any) -> tuple[Int64, pa.Table]:
        parts = []
        if (schema := self.rows.schema) is not None and (word := decode.word_of_key(plan, key, schema)) is not None:
            place = self.rows.places(self._key_index(plan).find(word)[1])
            if len(place):
                parts.append((place, self.rows.values(place)))
        if self.rows.bare:
            named = zip(plan.keys, key if isinstance(key, tuple) else (key,), strict=True)
            place, columns = self.look_up({name: [part] for name, part in named})
            wanted = np.flatnonzero(decode.key_words(plan, columns) == decode.word_of_key(plan, key, columns.schema))
            parts.append((place[wanted], columns.take(pa.array(wanted))))
        if not parts:
            return np.zeros(0, dtype=np.int64), pa.table({})
        return np.concatenate([p for p, _ in parts]), pa.concat_tables([c for _, c in parts], promote_options="permissive")

    def _key_index(self, plan: ViewPlan) -> Index:
        index = self._by_key.get(plan.view.name)
        if index is None:
            index = Index()
            index.add(decode.key_words(plan, self.rows.all_values()), self.rows.number[self.rows.bare :])
            self._by_key[plan.view.name] = index
        return index

    def look_up(self, wanted: Mapping[str, Sequence[Any]]) -> tuple[Int64, pa.Table]:
        """Positions and values of the rows that came in bulk and have the wanted values; superfluous ones may be among them."""
        lookup = self.lookup or lookup_files(self._paths)
        found = decode.decode(self.table, self.plans, lookup(self.table, wanted))
        row, number = self._by_identity.find(found.identity)
        place = self.rows.places(number)
        same = (place < self.rows.bare) & (self.rows.digest[place] == found.digest[row])
        same &= (self.rows.known[place] == found.known[row]) & (self.rows.event[place] == found.event[row])
        place, first = np.unique(place[same], return_index=True)
        return place, found.columns.take(pa.array(row[same][first]))

    def corrected(self, taken: Taken) -> pa.Table:
        """The values of the rows that `taken` has shortened."""
        places = taken.shortened
        if not self.rows.bare or places.min() >= self.rows.bare:
            return self.rows.values(places)
        mine = taken.batch.place[np.isin(taken.batch.identity, self.rows.identity[places])]
        keys = taken.batch.source.select(list(self.table.keys)).take(pa.array(mine))
        found, columns = self.look_up({name: list(dict.fromkeys(keys[name].to_pylist())) for name in keys.column_names})
        rest = places[places >= self.rows.bare]
        if len(rest):
            columns = pa.concat_tables([columns, self.rows.values(rest)], promote_options="permissive")
            found = np.concatenate([found, rest])
        order = np.argsort(found)
        at = np.searchsorted(found[order], places)
        if (found[order[np.minimum(at, len(found) - 1)]] != places).any():
            raise InvalidError(
                f"a row of table {self.table.name!r} that was corrected is no longer in the table; run `tidemill features materialize`"
            )
        return columns.take(pa.array(order[at]))

    def ends(self, places: Int64) -> Int64:
        """When the rows at some positions are superseded."""
        store = self.rows
        number = self._by_identity.find(np.unique(store.identity[places]))[1]
        every = store.places(np.unique(number))
        end = ends_of(store.identity[every], store.known[every], store.number[every])
        return end[np.searchsorted(every, places)]

    def horizon(self, clock: int) -> int:
        """What lies before cannot matter to a read from `clock` less `REWIND_US` on."""
        return clock - self.retention - REWIND_US

    def forget(self, clock: int) -> None:
        """Drop identities that cannot matter from `clock` less `REWIND_US` on (now and then), and segments that hold nothing else."""
        before = self._floor = max(self._floor, self.horizon(clock))
        self._dead += [s[0] for s in self._segments if s[1] < before]
        self._segments = [s for s in self._segments if s[1] >= before]
        if self.rows.length < self._tidy_at:
            return
        keep = self.rows.horizon >= before
        if self.table.keys and not keep.all():
            keep = np.isin(self.rows.identity, self.rows.identity[keep])
        if not keep.all():
            self.rows.keep(keep)
            self._by_identity, self._by_key = Index(), {}
            self._by_identity.add(self.rows.identity, self.rows.number)
        self._tidy_at = max(4096, self.rows.length * 5 // 4)

    def note(self, columns: pa.Table) -> None:
        """Note of what type the keys are, for those who ask for one of another type; empty where rows do not agree."""
        for key in dict.fromkeys(key for plan in self.plans for key in plan.keys):
            kind = str(columns.schema.field(f"v_{key}").type)
            if kind != "null":
                self._kinds[key] = kind if self._kinds.get(key, kind) == kind else ""

    def save(self, clock: int) -> tuple[dict[tuple[str, str], bytes], str]:
        """The states to write (a new segment of the log, if rows came) and the table's cursor."""
        states: dict[tuple[str, str], bytes] = {}
        first = int(np.searchsorted(self.rows.number, self._saved, side="right"))
        for start in range(first, self.rows.bare, _BARE):
            self._segment(np.arange(start, min(start + _BARE, self.rows.bare)), _LASTING, states)
        first = max(first, self.rows.bare)
        if first < self.rows.length:
            self._segment(np.arange(first, self.rows.length), 0, states)
            self._merge(states)
        self._saved = self._number
        body = {
            "digest": self.digest,
            "known_us": self.known_us,
            "clock_us": clock,
            "floor_us": self._floor,
            "number": self._number,
            "segments": self._segments,
            "next": self._next,
            "dead": self._dead,
            "paths": self._paths if self.rows.bare else [],
            "kinds": self._kinds,
        }
        return states, json.dumps(body)

    def unfinished(self) -> str:
        """A cursor under which the table is stale, for as long as its state is being made in bulk."""
        return json.dumps({"digest": "unfinished", "segments": []})

    def _segment(self, places: Int64, level: int, states: dict[tuple[str, str], bytes]) -> None:
        body = self.rows.dump(places)
        if len(body) > _FULL_BYTES and len(places) > 1:
            for part in np.array_split(places, min(-(-len(body) // _FULL_BYTES), len(places))):
                self._segment(part, _LASTING, states)
            return
        number, latest = self.rows.number[places], int(self.rows.horizon[places].max())
        states[segment(self.table, self._next), "rows"] = body
        self._segments.append((self._next, latest, level, int(number[0]), int(number[-1])))
        self._next += 1

    def _merge(self, states: dict[tuple[str, str], bytes]) -> None:
        """Write the last segments as one when there are enough of one level."""
        while len(last := self._segments[-_TOGETHER:]) == _TOGETHER and last[0][2] != _LASTING and len({s[2] for s in last}) == 1:
            del self._segments[-_TOGETHER:]
            for name in (s[0] for s in last):
                if states.pop((segment(self.table, name), "rows"), None) is None:
                    self._dead.append(name)
            first = int(np.searchsorted(self.rows.number, last[0][3]))
            places = np.arange(first, int(np.searchsorted(self.rows.number, last[-1][4], side="right")))
            if len(places):
                self._segment(places, last[0][2] + 1, states)

    def drop_dead(self) -> list[str]:
        """Names of the segments that nothing points to any more; they are the caller's to clear."""
        dead, self._dead = self._dead, []
        return [segment(self.table, n) for n in dead]

    def load(self, cursor: Mapping[str, Any], bodies: Sequence[bytes | None]) -> None:
        """Go on from a cursor and the segments that it names."""
        self.known_us, self._floor = cursor["known_us"], cursor["floor_us"]
        self._number = self._saved = cursor["number"]
        self._next, self._paths = cursor["next"], cursor["paths"]
        self._segments, self._dead = [tuple(s) for s in cursor["segments"]], list(cursor["dead"])
        self._kinds = dict(cursor.get("kinds", {}))  # a store from before has none
        for body in bodies:
            if body:
                self.rows.restore(body)
        self._by_identity.add(self.rows.identity, self.rows.number)


def ends_of(identity: UInt64, known: Int64, number: Int64) -> Int64:
    """For each row, when the next revision of its identity becomes known."""
    end = np.full(len(identity), FOREVER, dtype=np.int64)
    order = np.lexsort((number, known, identity))
    same = identity[order][1:] == identity[order][:-1]
    end[order[:-1][same]] = known[order[1:][same]]
    return end


def segments(table: Table, cursor: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the segments that a cursor names are stored."""
    return [(segment(table, s[0]), "rows") for s in cursor["segments"]]


def segment(table: Table, number: int) -> str:
    """What a segment is called in the store."""
    return f"{table.name}~{number}"

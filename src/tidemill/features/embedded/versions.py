"""Online state of views by version: each version has a `TileProcessor` of its own, on names of its own in one store."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import ConflictError, InvalidError, LostError, not_found
from tidemill.core.meaning import view_digest
from tidemill.features.embedded.memory import segments
from tidemill.features.embedded.places import Place, Scoped, Written, current, new_place, places
from tidemill.features.embedded.processor import TileProcessor
from tidemill.features.embedded.published import Lookup
from tidemill.features.embedded.tiles import NEVER
from tidemill.features.ports import OnlineStore, ViewState
from tidemill.versioning.ports import Scan


class ViewProcessor:
    """A `StreamProcessor` in this process, over any `OnlineStore`.

    A version that is being built, or that no longer is the current one, takes rows like the others until it is dropped. The state of
    a version is opened when it is first needed. Each version is committed in a transaction of its own.
    """

    def __init__(self, online: OnlineStore, definitions: Definitions, lookup: Lookup | None = None) -> None:
        self._online, self._lookup = online, lookup
        self._lock = threading.RLock()
        self._clock = NEVER
        self._views = dict(definitions.views)
        self._records: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        self._current: dict[str, str] = {}
        self._wanted: dict[str, Place] = {}
        self._fresh: set[str] = set()
        self._open: dict[str, TileProcessor] = {}
        self._known: dict[str, int] = {}
        self._by_view: dict[int, tuple[FeatureView, str]] = {}
        self._broken = False
        self._gone = {name.partition("/")[0] for name in online.lost()}
        self._look()

    def _look(self) -> None:
        """See what the store has. What another writer has changed is opened again when it is needed, without what was pushed here meanwhile."""
        cursors = self._online.cursors()
        if self._broken:
            self._open, self._known, self._places, self._broken = {}, {}, {}, False
        found = {place.digest: place for place in places(cursors)}
        for digest in list(self._open):
            if cursors.get(self._places[digest].name) != self._records.get(digest):
                del self._open[digest]
                self._known.pop(digest, None)
        self._places = {d: self._places[d] if d in self._open else place for d, place in found.items()} | {
            d: p for d, p in self._places.items() if d in self._open and d not in found
        }
        for place in self._places.values():
            if place.name in self._gone:
                place.status = "absent"
        self._records = {digest: cursors[place.name] for digest, place in found.items()}
        self._current = current(cursors)
        known = {place.view.name for place in found.values()}
        self._wanted = {view.name: self._places.setdefault(p.digest, p) for view in self._views.values() for p in [new_place(view)]}
        self._fresh = {place.digest for name, place in self._wanted.items() if name not in known}

    def versions(self) -> list[ViewState]:
        with self._lock:
            self._look()
            wanted = {place.digest for place in self._wanted.values()}
            found = sorted(self._places.values(), key=lambda p: (p.view.name, p.digest not in wanted, p.digest))
            return [
                ViewState(p.view, p.digest, p.status, p.digest in wanted, self._current.get(p.view.name) == p.name, p.known_us, p.mark)
                for p in found
            ]

    def push(self, table: str, rows: pa.Table, *, only: Collection[str] | None = None) -> int:
        with self._lock:
            self._mend()
            takes = [p for p in self._places.values() if p.view.table.name == table and self._takes(p, only)]
            for place in takes:
                self._tiles(place).check(table, rows)
            new = max((self._push(place, rows) for place in takes), default=0)
            for place in takes:  # also of rows that count no more: the lag is of what has come, not of what is kept
                self._known[place.digest] = max(newest(place.view, rows), self._known.get(place.digest, NEVER))
            return new

    def _push(self, place: Place, rows: pa.Table) -> int:
        tiles = self._tiles(place)
        with self._noticing(place):
            return tiles.push(place.view.table.name, rows)

    @contextmanager
    def _noticing(self, place: Place) -> Iterator[None]:
        """A version of which something was lost is absent from then on, to be begun anew."""
        try:
            yield
        except LostError:
            self._gone.add(place.name)
            self._broken = True
            raise
        except BaseException:  # rows may be half in: what the store has counts
            self._broken = True
            raise

    def _takes(self, place: Place, only: Collection[str] | None) -> bool:
        return (place.status != "absent" or place.digest in self._fresh) and (only is None or place.digest in only)

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values at `at_us`. Raises `InvalidError` for a version that is not published, and for a time whose rows are forgotten."""
        with self._lock:
            self._mend()
            self._clock = max(self._clock, at_us)
            answers: list[dict[str, Any]] = [{} for _ in keys]
            for view in views:
                place = self._readable(view)
                tiles = self._tiles(place)
                with self._noticing(place):
                    for answer, found in zip(answers, tiles.read([place.view], keys, at_us), strict=True):
                        answer |= found
            return answers

    def _readable(self, view: FeatureView) -> Place:
        known = self._by_view.get(id(view))
        if known is None or known[0] is not view:
            known = self._by_view[id(view)] = (view, view_digest(view))
        place = self._places.get(known[1])
        if place is None:
            if view.name not in self._wanted:
                raise not_found("feature view", view.name, self._wanted)
            raise InvalidError(f"feature view {view.name!r} is not the one that was opened; open the online store with the new definitions")
        if place.status != "published" and place.digest not in self._fresh:
            raise unpublished(place, self._current.get(view.name))
        return place

    def advance(self, at_us: int) -> None:
        with self._lock:
            self._clock = max(self._clock, at_us)
            for tiles in self._open.values():
                tiles.advance(at_us)

    def commit(self, marks: Mapping[str, str] | None = None) -> None:
        with self._lock:
            self._mend()
            try:
                self._commit(marks)
            except BaseException:
                self._broken = True
                raise

    def _mend(self) -> None:
        """After a write of which nobody knows what became of it, go on from what the store has."""
        if self._broken:
            self._look()

    def _commit(self, marks: Mapping[str, str] | None) -> None:
        for digest in {*self._open, *(d for d in marks or () if d in self._places)}:
            place, tiles = self._places[digest], self._tiles(self._places[digest])
            tiles.advance(self._clock)
            place.clock_us = tiles.clock_us
            known = max(self._known.pop(digest, NEVER), NEVER if place.known_us is None else place.known_us)
            place.known_us = None if known == NEVER else known
            place.mark, place.turn = (marks or {}).get(digest, place.mark), place.turn + 1
            if digest in self._fresh:
                place.status = "published"
            tiles.commit()
            self._written(place)
            if digest in self._fresh:
                self._current[place.view.name] = place.name
                self._fresh.discard(digest)
        if self._clock > NEVER:
            self._online.sweep(self._clock)

    def reset(self, view: str) -> None:
        """Begin anew. A crash on the way leaves the version absent, to be begun again."""
        with self._lock:
            self._mend()
            if view not in self._wanted:
                raise not_found("feature view", view, self._wanted)
            self._begin(self._wanted[view])

    def _begin(self, place: Place) -> None:
        self._forget(place)
        place.status = "building"
        self._online.write(*place.written())
        self._written(place)

    def load(self, digest: str, scan: Scan, *, at_us: int) -> int:
        with self._lock:
            self._mend()
            if digest not in self._places:
                raise not_found("version of a view", digest, self._places)
            place = self._places[digest]
            self._begin(place)
            self._clock = max(self._clock, at_us)
            tiles = self._tiles(place)
            try:
                new = tiles.load(place.view.table.name, scan, at_us=at_us)
            except BaseException:
                self._broken = True
                raise
            known = tiles.known_us(place.view.table.name)
            self._known[digest] = NEVER if known is None else known
            return new

    def publish(self, digests: Mapping[str, bool]) -> None:
        with self._lock:
            self._mend()
            states: dict[tuple[str, str], bytes] = {}
            cursors: dict[str, str] = {}
            for digest, readable in digests.items():
                place = self._places[digest]
                place.status = "published" if readable else "complete"
                more, besides = place.written(current=readable)
                states |= more
                cursors |= besides
            self._online.write(states, cursors)
            for digest in digests:
                self._written(self._places[digest])
            self._current |= {self._places[d].view.name: self._places[d].name for d, readable in digests.items() if readable}

    def drop(self, digest: str) -> None:
        with self._lock:
            self._mend()
            if digest not in self._places:
                raise not_found("version of a view", digest, self._places)
            place = self._places[digest]
            if self._current.get(place.view.name) == place.name:
                raise ConflictError(f"{place.name} is the current version of {place.view.name!r}; publish another one, then drop it")
            self._forget(place)
            self._online.clear(place.name)
            if place is not self._wanted.get(place.view.name):
                del self._places[digest]

    def _written(self, place: Place) -> None:
        self._records[place.digest] = place.record()

    def _forget(self, place: Place) -> None:
        """Say first that nobody may read it, then let go of its states."""
        self._fresh.discard(place.digest)
        self._gone.discard(place.name)
        self._known.pop(place.digest, None)
        place.status, place.known_us, place.mark = "absent", None, ""
        self._online.write(*place.written())
        self._open.pop(place.digest, None)
        mine, table = Scoped(self._online, place.name), place.view.table
        text = mine.cursors().get(table.name)
        for name, _ in segments(table, json.loads(text)) if text else ():
            mine.clear(name)
        mine.clear(place.view.name)
        mine.clear(table.name)

    def _tiles(self, place: Place) -> TileProcessor:
        tiles = self._open.get(place.digest)
        if tiles is None:

            def beside() -> Written:
                return place.written(current=place.digest in self._fresh)

            with self._noticing(place):
                tiles = self._open[place.digest] = TileProcessor(Scoped(self._online, place.name, beside), place.alone(), self._lookup)
            if self._clock > NEVER:
                tiles.advance(self._clock)
            if tiles.stale and place.status == "building":  # a load was killed
                tiles.reset(place.view.table.name)
        return tiles


def newest(view: FeatureView, rows: pa.Table) -> int:
    """The greatest known time of rows of the view's table, `NEVER` without one."""
    found = pc.max(pc.cast(rows[view.table.known_time], pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())).as_py()
    return NEVER if found is None else int(found)


def unpublished(place: Place, served: str | None) -> InvalidError:
    """Why a version cannot be read, and what to do."""
    name = place.view.name
    instead = f"; {served} stays the current version meanwhile" if served else ""
    if place.status == "complete":
        return InvalidError(f"{place.name} is complete but not published{instead}; run `tidemill features publish {name}`")
    why = "is still being built" if place.status == "building" else "has changed" if served else "has never been materialized"
    return InvalidError(f"feature view {name!r} {why}{instead}; run `tidemill features materialize {name}`")

"""Contract suites of stream processors: every value against a reference that is slow and obviously right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.aggregates import count
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import ConflictError, InvalidError
from tidemill.core.instants import DAY_US
from tidemill.features.ports import BulkProcessor, StreamProcessor
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.features import EXAMPLES, MOMENT, TOGETHER, apart, histories, one_row
from tidemill.testing.kills import Report, until_killed
from tidemill.testing.reference import DEFINITIONS, KEYED, MINUTE, PLACE, VIEWS, Rows, arrow, reference, same, scans

_READS = st.lists(MOMENT | st.integers(0, 40 * MINUTE), min_size=1, max_size=4)
"""Also at the very moments at which rows become visible or leave a window."""


@dataclass(slots=True)
class _Replay:
    """Pushes rows slot by slot, reads after each, and compares with the reference. `worlds`: what the names of histories that stand `apart` begin with."""

    open_processor: Callable[[], StreamProcessor]
    worlds: Sequence[str] = ("",)
    pushed: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"keyed": [], "plain": []})

    def compare(self, processor: StreamProcessor, at: int) -> None:
        everybody = [(world, world + place) for world in self.worlds for place in "ab"] + [("nobody", "nowhere"), ("nobody", None)]
        asked = [(world, {"place": place, "lane": lane}) for world, place in everybody for lane in (1, 2, None)]
        rows = {(name, world): _of(world, all_) for name, all_ in self.pushed.items() for world, _ in everybody}
        for (world, key), row in zip(asked, processor.read(VIEWS, [key for _, key in asked], at), strict=True):
            expected: dict[str, Any] = {}
            for view in VIEWS:
                expected |= reference(view, rows[view.table.name, world], key, at)
            assert same(expected, row), (key, at, expected, row)

    def edges(self) -> list[int]:
        """The last moment at which each row is young enough for `latest` features, and the first at which it is not."""
        ttls = {a.ttl_us for view in VIEWS for a in view.aggregates if a.kind == "latest"}
        happened = [row["happened"] for all_ in self.pushed.values() for row in all_ if row["happened"] is not None]
        return [event + ttl + more for event in happened for ttl in sorted(ttls) for more in (0, 1)]


def _of(world: str, rows: Rows) -> Rows:
    """The rows that can matter to the places of a history."""
    return [row for row in rows if (row["id"] or row["place"] or "").startswith(world)]


class StreamProcessorContract(Contract):
    """Supply an `open_processor` fixture: each call opens a processor of `DEFINITIONS` on the same store; `fresh` starts with an empty one.

    And `open_elsewhere`, which opens one of another store, in another process as well (so it can be pickled).
    """

    @pytest.fixture
    def open_processor(self) -> Callable[..., StreamProcessor]:
        """Opens the processor under test: `open_processor(fresh=True)` on a new store, else on the last one; `definitions=` others."""
        raise TypeError(f"{type(self).__name__} needs an open_processor fixture")

    @pytest.fixture
    def open_elsewhere(self) -> Callable[[], StreamProcessor]:
        """Opens a processor of `DEFINITIONS` on one store, empty at first, in any process."""
        raise TypeError(f"{type(self).__name__} needs an open_elsewhere fixture")

    @keeps("equal", "exactly once", "patient", "rewinding")
    def test_any_stream_equals_the_reference(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """Equal, exactly once, patient, rewinding: whatever the order, the repetitions, the commits and the restarts."""
        world = st.tuples(histories(), histories())

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(world, min_size=TOGETHER, max_size=TOGETHER), _READS, st.integers(0, 2**32), st.data())
        def check(worlds: list[tuple[Rows, Rows]], reads: list[int], seed: int, data: st.DataObject) -> None:
            reads, random = sorted(reads), Random(seed)
            replay, processor = _Replay(open_processor, [str(i) for i in range(TOGETHER)]), open_processor(fresh=True)
            rows = {name: [r for i, one in enumerate(worlds) for r in apart(one[n], i)] for n, name in enumerate(("keyed", "plain"))}
            slots = {name: _slots(all_, reads, random) for name, all_ in rows.items()}
            for slot, at in enumerate(reads):
                if data.draw(st.booleans(), "advance"):
                    processor.advance(at)
                for name, by_slot in slots.items():
                    batch = by_slot[slot]
                    new = processor.push(name, arrow(batch))
                    assert new == len(_new(batch, replay.pushed[name]))
                    replay.pushed[name] += batch
                    assert processor.push(name, arrow(batch)) == 0
                replay.compare(processor, at)
                replay.compare(processor, data.draw(st.integers(max(0, at - 12 * MINUTE), at), "earlier"))
                if edges := [t for t in replay.edges() if max(0, at - 12 * MINUTE) <= t <= at]:
                    replay.compare(processor, random.choice(edges))
                if data.draw(st.booleans(), "restart"):
                    processor.commit()
                    processor = open_processor()
                    replay.compare(processor, at)

        check()

    def test_rewinding_for_a_day(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """A day before the newest read is answered as it was then, also after a commit has tidied and a restart."""
        hours = range(0, 50, 2)
        rows = [
            one_row(id=str(h % 7), happened=h * 60 * MINUTE, learned=h * 60 * MINUTE, delay=float(h), place="ab"[h % 4 // 2]) for h in hours
        ]
        replay, processor = _Replay(open_processor), open_processor(fresh=True)
        replay.pushed = {"keyed": rows, "plain": rows}
        for table in ("keyed", "plain"):
            processor.push(table, arrow(rows))
        for now in (48 * 60 * MINUTE + 1, 49 * 60 * MINUTE):
            processor.advance(now)
            for earlier in (now, now - DAY_US // 2, now - DAY_US):
                replay.compare(processor, earlier)
            processor.commit()
            processor = open_processor()

    @keeps("exactly once")
    def test_what_was_not_committed_can_be_pushed_again(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """Exactly once: a crash before commit leaves the older whole state."""
        rows = [one_row(id=str(i), happened=i * MINUTE, learned=i * MINUTE, delay=float(i)) for i in range(6)]
        replay, processor = _Replay(open_processor), open_processor(fresh=True)
        processor.push("keyed", arrow(rows[:3]))
        processor.commit()
        processor.push("keyed", arrow(rows[3:]))
        processor = open_processor()
        replay.pushed["keyed"] = rows[:3]
        replay.compare(processor, 5 * MINUTE)
        assert processor.push("keyed", arrow(rows)) == 3
        replay.pushed["keyed"] = rows
        replay.compare(processor, 6 * MINUTE)

    @keeps("exactly once", "marked")
    def test_killed_and_begun_anew_nothing_is_lost_or_counted_twice(self, open_elsewhere: Callable[[], StreamProcessor]) -> None:
        """Exactly once, marked: kill -9 amid pushes and commits; who goes on from the mark, and a bit before it, ends as if undisturbed."""
        told = until_killed(_push_for_ever, open_elsewhere, reports=3)
        processor = open_elsewhere()
        reached = _reached(processor)
        assert reached in (told[-1], told[-1] + 1)
        for turn in range(max(0, reached - 2), reached + 3):
            processor.push("keyed", arrow(_turn(turn)))
        processor.commit(_marked(processor, reached + 3))
        replay, processor = _Replay(open_elsewhere), open_elsewhere()
        replay.pushed["keyed"] = [dict(r) for turn in range(reached + 3) for r in _turn(turn)]
        assert _reached(processor) == reached + 3
        at = max(r["learned"] for r in replay.pushed["keyed"])
        keys = [{"place": p, "lane": 1} for p in "ab"]
        for key, row in zip(keys, processor.read(VIEWS[:4], keys, at), strict=True):
            expected: dict[str, Any] = {}
            for view in VIEWS[:4]:
                expected |= reference(view, replay.pushed["keyed"], key, at)
            assert same(expected, row), (key, at, expected, row)

    @keeps("versioned")
    def test_a_version_is_never_read_as_another_one(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """Versioned: a changed view is built beside the old one, which is served meanwhile; other views do not notice."""
        row, later = one_row(happened=MINUTE, learned=MINUTE), one_row(id="y", happened=MINUTE, learned=2 * MINUTE)
        processor = open_processor(fresh=True)
        for table in ("keyed", "plain"):
            processor.push(table, arrow([row]))
        processor.commit()
        old, wider = DEFINITIONS.views["keyed_windows"], FeatureView("keyed_windows", PLACE, KEYED, [count(over="8m", hop="2m")])
        changed = open_processor(definitions=replace(DEFINITIONS, views={**DEFINITIONS.views, "keyed_windows": wider}))
        state = {(s.view.name, s.wanted): s for s in changed.versions()}
        assert (state["keyed_windows", True].status, state["keyed_windows", False].current) == ("absent", True)
        assert {s.status for (name, _), s in state.items() if name != "keyed_windows"} == {"published"}
        asked, digest = [{"place": "a"}], state["keyed_windows", True].digest
        for status in ("absent", "building", "complete"):
            assert next(s.status for s in changed.versions() if s.digest == digest) == status
            with pytest.raises(InvalidError):
                changed.read([wider], asked, 2 * MINUTE)
            assert changed.read([old], asked, 2 * MINUTE)[0]["keyed_windows__count_6m"] == 1 + (status == "complete")
            if status == "absent":
                changed.reset("keyed_windows")
            elif status == "building":
                assert changed.push("keyed", arrow([row, later]), only={digest}) == 2
                changed.push("keyed", arrow([later]))
                changed.commit()
                changed.publish({digest: False})
        changed.publish({digest: True})
        changed = open_processor(definitions=replace(DEFINITIONS, views={**DEFINITIONS.views, "keyed_windows": wider}))
        assert changed.read([wider, old, DEFINITIONS.views["plain_windows"]], asked, 2 * MINUTE)[0]["keyed_windows__count_8m"] == 2
        with pytest.raises(ConflictError):
            changed.drop(digest)
        changed.drop(state["keyed_windows", False].digest)
        with pytest.raises(InvalidError):
            changed.read([old], asked, 2 * MINUTE)
        assert changed.read([wider], asked, 2 * MINUTE) == [{"keyed_windows__count_8m": 2}]

    @keeps("marked")
    def test_a_mark_is_there_with_what_was_pushed_before_it(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """Marked: a mark that was not committed, and rows that were not, are gone together."""
        processor = open_processor(fresh=True)
        mine = next(s for s in processor.versions() if s.view.name == "keyed_windows")
        processor.push("keyed", arrow([one_row(happened=MINUTE, learned=MINUTE)]))
        processor.commit({mine.digest: "first"})
        processor.push("keyed", arrow([one_row(id="y", happened=MINUTE, learned=2 * MINUTE)]))
        processor = open_processor()
        again = next(s for s in processor.versions() if s.digest == mine.digest)
        assert (again.mark, again.known_us, again.status) == ("first", MINUTE, "published")
        assert processor.read([DEFINITIONS.views["keyed_windows"]], [{"place": "a"}], 3 * MINUTE)[0]["keyed_windows__count_6m"] == 1
        processor.commit()
        assert next(s.mark for s in processor.versions() if s.digest == mine.digest) == "first"

    @keeps("versioned")
    def test_reset_begins_anew(self, open_processor: Callable[..., StreamProcessor]) -> None:
        """Versioned: what was there counts neither twice nor at all."""
        row = one_row(happened=MINUTE, learned=MINUTE)
        processor = open_processor(fresh=True)
        processor.push("keyed", arrow([row]))
        processor.commit()
        processor.reset("keyed_windows")
        digest = next(s.digest for s in processor.versions() if s.view.name == "keyed_windows")
        processor = open_processor()
        assert processor.push("keyed", arrow([row]), only={digest}) == 1
        processor.commit()
        processor.publish({digest: True})
        assert processor.read([DEFINITIONS.views["keyed_windows"]], [{"place": "a"}], 2 * MINUTE)[0]["keyed_windows__count_6m"] == 1


def _turn(turn: int) -> Rows:
    """Rows of one turn, a minute after those of the one before: some late, one a correction of the turn before."""
    at = turn * MINUTE
    rows = [
        one_row(id=f"{turn}-{i}", place="ab"[i % 2], happened=at - (i % 3) * MINUTE, learned=at + i, delay=float(i), word="u")
        for i in range(8)
    ]
    return [*rows, one_row(id=f"{turn - 1}-1", place="b", happened=at - 2 * MINUTE, learned=at + 9, delay=-1.0, word="v")]


def _push_for_ever(processor: StreamProcessor, report: Report) -> None:
    for turn in count_from(_reached(processor)):
        processor.push("keyed", arrow(_turn(turn)))
        processor.commit(_marked(processor, turn + 1))
        report(turn + 1)


def _marked(processor: StreamProcessor, turns: int) -> dict[str, str]:
    """A mark for the version of one view, which stands for all that were committed with it or before it."""
    return {s.digest: str(turns) for s in processor.versions() if s.view.table.name == "keyed"}


def _reached(processor: StreamProcessor) -> int:
    """How many turns every version has."""
    return min(int(s.mark or 0) for s in processor.versions() if s.view.table.name == "keyed")


class BulkProcessorContract(StreamProcessorContract):
    """Supply an `open_processor` fixture as for a `StreamProcessor`."""

    @keeps("bulk")
    def test_a_load_is_as_good_as_pushing_everything(self, open_processor: Callable[..., BulkProcessor], tmp_path: Path) -> None:
        """Bulk: what a load took is there after a restart, counts once when it is pushed as well, and can be corrected."""

        @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories(), histories(), st.lists(st.integers(0, 40 * MINUTE), min_size=2, max_size=3), st.data())
        def check(keyed: Rows, plain: Rows, times: list[int], data: st.DataObject) -> None:
            (first, *later), rows = sorted(times), {"keyed": keyed, "plain": plain}
            cuts = {name: data.draw(st.integers(0, len(all_)), name) for name, all_ in rows.items()}
            replay, processor = _Replay(open_processor), open_processor(fresh=True)
            for name, all_ in rows.items():
                taken = replay.pushed[name] = [dict(row) for row in all_[: cuts[name]]]
                scan = scans(tmp_path, {name: taken}, [len(taken) // 2])[name]
                for state in (s for s in processor.versions() if s.view.table.name == name):
                    processor.load(state.digest, scan, at_us=first)
            processor.commit()
            processor.publish({state.digest: True for state in processor.versions()})
            processor = open_processor() if data.draw(st.booleans(), "restart") else processor
            replay.compare(processor, first)
            replay.compare(processor, data.draw(st.integers(max(0, first - 12 * MINUTE), first), "earlier"))
            for at in later:
                if data.draw(st.booleans(), "advance"):
                    processor.advance(at)
                for name, all_ in rows.items():
                    processor.push(name, arrow(all_))
                    replay.pushed[name] = [*replay.pushed[name], *(dict(row) for row in all_[cuts[name] :])]
                replay.compare(processor, at)
                if data.draw(st.booleans(), "commit"):
                    processor.commit()
                    processor = open_processor()

        check()


def _slots(rows: Rows, reads: list[int], random: Random) -> list[list[dict[str, Any]]]:
    """Spread rows over the times before each read; none comes later than the shortest retention after it was known."""
    made: list[list[dict[str, Any]]] = [[] for _ in reads]
    for row in rows:
        latest_slot = next((i for i in range(1, len(reads)) if reads[i - 1] > (row["learned"] or 0) + 8 * MINUTE), len(reads)) - 1
        made[random.randint(0, latest_slot)].append(dict(row))
    return made


def _new(batch: Rows, before: Rows) -> list[Mapping[str, Any]]:
    seen, new = list(before), []
    for row in batch:
        if row not in seen and row["learned"] is not None:
            new.append(row)
        seen.append(row)
    return new

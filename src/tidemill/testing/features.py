"""Contract suites of the feature ports: every value against a reference that is slow and obviously right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_from
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.aggregates import count
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError
from tidemill.features.ports import AT, MAX_STATE_BYTES, BulkStore, GridStore, OfflineStore, OnlineStore, States
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed
from tidemill.testing.reference import KEYED, MINUTE, PLACE, UTC_US, VIEWS, Rows, reference, same, scans

EXAMPLES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 50
TOGETHER = 10
"""Histories of entities and identities of their own that one example holds: opening a store and joining cost much, a row little."""
MOMENT = st.integers(0, 40).map(lambda m: m * (MINUTE // 2)) | st.integers(0, 20 * MINUTE)
_DELAY = (
    st.none()
    | st.integers(-9, 9).map(float)
    | st.floats(-1e12, 1e12, allow_nan=False)
    | st.sampled_from([1e-7, 1e15, -1e15, 0.1, 0.2, 0.3])
)
_PLACES, _LANES = st.sampled_from(["a", "a", "b", None]), st.sampled_from([1, 2, None])
_ROW = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["x", "y", "z", None]),
        "place": _PLACES,
        "lane": _LANES,
        "happened": MOMENT | st.none(),
        "learned": MOMENT | st.just(None),
        "delay": _DELAY,
        "word": st.sampled_from(["u", "v", None]),
    }
)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows in the order of ingestion: late, early, out of order, corrected, duplicate, null."""
    rows = draw(st.lists(_ROW, max_size=14))
    for _ in range(draw(st.integers(0, 3)) if rows else 0):
        again = dict(draw(st.sampled_from(rows)))
        if draw(st.booleans()):
            again |= {"delay": draw(_DELAY), "learned": draw(MOMENT), "happened": draw(MOMENT | st.just(again["happened"]))}
        rows.insert(draw(st.integers(0, len(rows))), again)
    return rows


_SPINE = st.lists(
    st.fixed_dictionaries({"place": _PLACES, "lane": _LANES, AT: MOMENT | st.integers(0, 40 * MINUTE)}), min_size=1, max_size=8
)


def apart(rows: Rows, place: int) -> list[dict[str, Any]]:
    """A history with names of its own, so that it can stand beside others."""
    own = {"id": f"{place}{{}}", "place": f"{place}{{}}"}
    return [{k: own[k].format(v) if k in own and v is not None else v for k, v in row.items()} for row in rows]


def spine_table(spine: Rows) -> pa.Table:
    """A spine as Arrow, with a column of its own that has to be kept."""
    return pa.table(
        {
            "place": pa.array([s["place"] for s in spine], pa.string()),
            "lane": pa.array([s["lane"] for s in spine], pa.int64()),
            AT: pa.array([s[AT] for s in spine], pa.int64()).cast(UTC_US),
            "mine": pa.array(range(len(spine))),
        }
    )


def _features(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if "__" in k}


class OfflineStoreContract(Contract):
    """Supply a `store` fixture. `share` of the examples are drawn: less for a second way through one store.

    Where a join costs seconds, `at_once` puts all histories of a property into one; a failure is then not made smaller.
    """

    share = 1.0
    at_once = False

    @pytest.fixture
    def store(self) -> OfflineStore:
        """The store under test."""
        raise TypeError(f"{type(self).__name__} needs a store fixture")

    def examples(self, of: float) -> int:
        """How many examples of a property to draw."""
        return max(1, round(EXAMPLES * of * self.share))

    @keeps("leak-free", "superseded", "windows", "latest", "aligned")
    def test_any_history_equals_the_reference(self, store: OfflineStore, tmp_path: Path) -> None:
        """leak-free, superseded, windows, latest, aligned."""
        world = st.tuples(histories(), histories(), _SPINE)

        def check(worlds: list[tuple[Rows, Rows, Rows]], cuts: list[int]) -> None:
            each = [tuple(apart(rows, i) for rows in world) for i, world in enumerate(worlds)]
            every = {name: [r for one in each for r in one[i]] for i, name in enumerate(("keyed", "plain"))}
            spine = [asked for one in each for asked in one[2]]
            joined = store.join(spine_table(spine), VIEWS, scans(tmp_path, every, cuts)).to_pylist()
            assert [r["mine"] for r in joined] == list(range(len(spine)))
            found = iter(joined)
            for keyed, plain, asked_for in each:
                for asked in asked_for:
                    row, rows = next(found), {"keyed": keyed, "plain": plain}
                    expected: dict[str, Any] = {}
                    for view in VIEWS:
                        expected |= reference(view, rows[view.table.name], asked, asked[AT])
                    assert same(expected, _features(row)), (asked, expected, row)

        self._check(1.0, world, check)

    @keeps("repeatable")
    def test_rows_known_later_change_nothing(self, store: OfflineStore, tmp_path: Path) -> None:
        """Repeatable."""

        def check(worlds: list[tuple[Rows, Rows, Rows]], cuts: list[int]) -> None:
            rows: list[dict[str, Any]] = []
            unknown: list[dict[str, Any]] = []
            spine: list[dict[str, Any]] = []
            for i, (known, later, asked) in enumerate(worlds):
                last = max(s[AT] for s in asked)
                rows += apart(known, i)
                unknown += apart([r | {"learned": last + 1 + (r["learned"] or 0)} for r in map(dict, later)], i)
                spine += apart(asked, i)
            before = store.join(spine_table(spine), VIEWS, scans(tmp_path, {"keyed": rows, "plain": rows}, cuts))
            after = store.join(spine_table(spine), VIEWS, scans(tmp_path, {"keyed": rows + unknown, "plain": rows + unknown}, cuts))
            assert before.equals(after)

        self._check(0.5, st.tuples(histories(), histories(), _SPINE), check)

    def _check(self, of: float, world: st.SearchStrategy[Any], check: Callable[[list[Any], list[int]], None]) -> None:
        """Check a property of several worlds in one join, for many drawn lists of them or for all together."""
        careful = settings(max_examples=self.examples(of), deadline=None, suppress_health_check=list(HealthCheck))
        if not self.at_once:
            few = st.lists(world, min_size=TOGETHER, max_size=TOGETHER)
            careful(given(few, st.lists(st.integers(0, 50), max_size=2))(check))()
            return
        drawn: list[Any] = []

        @settings(careful, max_examples=self.examples(of) * TOGETHER, database=None)
        @given(world)
        def draw(one: Any) -> None:
            drawn.append(one)

        draw()
        check(drawn, [len(drawn), 3 * len(drawn)])

    @keeps("aligned")
    def test_a_spine_row_may_occur_often(self, store: OfflineStore, tmp_path: Path) -> None:
        """Aligned."""
        rows = [one_row(happened=MINUTE, learned=MINUTE, delay=3.0)]
        spine = [{"place": "a", "lane": 1, AT: 2 * MINUTE}] * 3 + [{"place": "b", "lane": 1, AT: 2 * MINUTE}]
        joined = store.join(spine_table(spine), VIEWS, scans(tmp_path, {"keyed": rows, "plain": rows}))
        assert joined["keyed_windows__count_6m"].to_pylist() == [1, 1, 1, 0]
        assert joined["plain_newest__delay"].to_pylist() == [3.0, 3.0, 3.0, None]
        empty = store.join(spine_table(spine).slice(0, 0), VIEWS, scans(tmp_path, {"keyed": rows, "plain": []}))
        assert empty.schema.equals(joined.schema)

    @keeps("leak-free")
    def test_peeking_is_an_error_or_impossible(self, store: OfflineStore, tmp_path: Path) -> None:
        """leak-free: a row that has happened and is not yet known does not count, and a time without a zone is refused."""
        lanes = [v for v in VIEWS if v.name == "plain_lanes"]
        rows = [one_row(happened=MINUTE, learned=9 * MINUTE, delay=3.0)]
        spine = [{"place": "a", "lane": 1, AT: 9 * MINUTE - 1}, {"place": "a", "lane": 1, AT: 9 * MINUTE}]
        found = store.join(spine_table(spine), lanes, scans(tmp_path, {"keyed": rows, "plain": rows}))
        assert found["plain_lanes__count_12m"].to_pylist() == [0, 1]
        naive = spine_table(spine).set_column(2, AT, spine_table(spine)[AT].cast(pa.timestamp("us")))
        with pytest.raises(InvalidError, match="time zone"):
            store.join(naive, lanes, scans(tmp_path, {"keyed": rows, "plain": rows}))
        with pytest.raises(InvalidError, match="lane"):
            store.join(spine_table(spine).drop_columns(["lane"]), lanes, scans(tmp_path, {"keyed": rows, "plain": rows}))

    @keeps("windows")
    def test_news_that_is_older_than_the_window_does_not_count(self, store: OfflineStore, tmp_path: Path) -> None:
        """Windows: a row known only after its window has passed, and a correction that late, are never seen, nor missed from the sums."""
        rows = [
            one_row(happened=MINUTE, learned=10 * MINUTE, delay=3.0),
            one_row(id="y", happened=7 * MINUTE, learned=7 * MINUTE, delay=5.0),
        ]
        rows.append(one_row(id="y", happened=7 * MINUTE, learned=16 * MINUTE, delay=8.0))
        spine = [{"place": "a", "lane": 1, AT: minute * MINUTE} for minute in (6, 9, 10, 13, 15, 16)]
        found = store.join(spine_table(spine), VIEWS[:1], scans(tmp_path, {"keyed": rows}))
        assert found["keyed_windows__count_6m"].to_pylist() == [0, 1, 1, 1, 0, 0]
        assert found["keyed_windows__delay_sum_6m"].to_pylist() == [None, 5.0, 5.0, 5.0, None, None]

    def test_explain_agrees_with_join(self, store: OfflineStore, tmp_path: Path) -> None:
        """What `explain` calls used is what counts, and nothing else."""

        @settings(max_examples=self.examples(0.5), deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories(), st.sampled_from(["a", "b"]), MOMENT)
        def check(rows: Rows, place: str, at: int) -> None:
            where = scans(tmp_path, {"keyed": rows})
            view = FeatureView("one", PLACE, KEYED, [count(over="6m", hop="2m")])
            shown = store.explain({"place": place, AT: at}, view, where["keyed"])
            assert reference(view, rows, {"place": place}, at)["one__count_6m"] == sum(s.use == "used" for s in shown)
            for row in shown:
                assert (row.use == "not_yet_known") == (row.known_us > at)
                assert row.use != "not_yet_happened" or row.event_us > at

        check()


def one_row(**values: Any) -> dict[str, Any]:
    """A row of the test tables with these values."""
    return {"id": "x", "place": "a", "lane": 1, "happened": 0, "learned": 0, "delay": None, "word": None} | values


class OnlineStoreContract(Contract):
    """Supply an `open_store` fixture: each call opens the same store anew, in another process as well (so it can be pickled)."""

    @pytest.fixture
    def open_store(self) -> Callable[[], OnlineStore]:
        """Opens the store under test."""
        raise TypeError(f"{type(self).__name__} needs an open_store fixture")

    @keeps("aligned", "isolated", "whole")
    def test_any_history_equals_a_dict(self, open_store: Callable[[], OnlineStore]) -> None:
        """aligned, isolated, durable, whole."""
        names = st.sampled_from(["", "a", 'ü\x00"', "b" * 300])
        writes = st.dictionaries(st.tuples(names, names), st.binary(max_size=9), max_size=5)

        @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(writes, st.dictionaries(names, st.text(max_size=5), max_size=2), st.none() | names), max_size=5))
        def check(history: list[tuple[dict[tuple[str, str], bytes], dict[str, str], str | None]]) -> None:
            store, states, cursors, prefix = open_store(), dict[tuple[str, str], bytes](), dict[str, str](), uuid4().hex
            for new, moved, cleared in history:
                new = {(prefix + v, k): b for (v, k), b in new.items()}
                moved = {prefix + n: c for n, c in moved.items()}
                store.write(new, moved)
                states |= new
                cursors |= moved
                if cleared is not None:
                    store.clear(prefix + cleared)
                    states = {k: b for k, b in states.items() if k[0] != prefix + cleared}
                    cursors.pop(prefix + cleared, None)
            again = open_store()
            asked = [*states, (prefix, "nobody"), *reversed(states)]
            assert again.read(asked) == [states.get(k) for k in asked]
            assert again.lost() == []
            assert {n: c for n, c in again.cursors().items() if n.startswith(prefix)} == cursors

        check()

    @keeps("atomic")
    def test_a_write_is_all_or_nothing(self, open_store: Callable[[], OnlineStore]) -> None:
        """Atomic."""
        store = open_store()
        store.write({("v", "k"): b"1"}, {"v": "1"})
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the engine raises for a value it cannot hold
            store.write({("v", "k"): b"2", ("v", "l"): object()}, {"v": "2"})  # type: ignore[dict-item]
        assert open_store().read([("v", "k"), ("v", "l")]) == [b"1", None]
        assert open_store().cursors()["v"] == "1"

    @keeps("atomic")
    def test_durable_after_kill_9(self, open_store: Callable[[], OnlineStore]) -> None:
        """durable, atomic: a killed writer leaves its last whole write, or the one it was at."""
        told = until_killed(_write_for_ever, open_store)
        found = open_store().read([(view, str(key)) for view in ("v", "w") for key in range(_MANY)])
        assert len(set(found)) == 1
        assert found[0] is not None
        assert int(found[0]) in (told[-1], told[-1] + 1)
        assert open_store().cursors() == {"v": found[0].decode()}

    @keeps("atomic")
    def test_a_state_that_is_too_large_is_refused(self, open_store: Callable[[], OnlineStore]) -> None:
        """The limit is named and nothing is lost."""
        store = open_store()
        store.write({("v", "k"): b"1"}, {"v": "1"})
        with pytest.raises(InvalidError, match=str(MAX_STATE_BYTES)):
            store.write({("v", "k"): b"2", ("v", "l"): bytes(MAX_STATE_BYTES + 1)}, {"v": "2"})
        assert open_store().read([("v", "k"), ("v", "l")]) == [b"1", None]
        assert open_store().cursors() == {"v": "1"}

    @keeps("expiring", "whole")
    def test_states_are_kept_until_they_are_due(self, open_store: Callable[[], OnlineStore]) -> None:
        """Whether due times lie in the past or in the future of the machine's clock."""
        for first in (1_357_000_000_000_000, 4_000_000_000_000_000):
            store = open_store()
            states = {("v", str(i)): b"%d" % i for i in range(30)} | {("w", "0"): b"w"}
            store.write(states, {}, {("v", str(i)): first + i for i in range(20)} | {("w", "0"): first + 3})
            store.write({("v", "2"): b"later", ("v", "3"): b"ever"}, {}, {("v", "2"): first + 25})
            assert store.sweep(first - 1) == 0
            assert open_store().read([("v", "0"), ("w", "0")]) == [b"0", b"w"]
            assert store.sweep(first + 4) == 4
            assert open_store().read([("v", str(i)) for i in (0, 1, 2, 3, 4, 5, 29)]) == [None, None, b"later", b"ever", None, b"5", b"29"]
            assert open_store().read([("w", "0"), ("w", "1")]) == [None, None]
            assert store.sweep(first + 100) == 16
            assert open_store().lost() == []
            store.clear("v")
            store.clear("w")
            assert open_store().read([("v", "29")]) == [None]


class BulkStoreContract(OnlineStoreContract):
    """Supply an `open_store` fixture as for an `OnlineStore`."""

    @keeps("filling")
    def test_a_fill_is_as_good_as_writing(self, open_store: Callable[[], BulkStore]) -> None:
        """Whatever was there before, in whatever order keys come, and as to when they are forgotten."""
        keys, sizes = st.sampled_from(_KEYS), st.sampled_from([0, 1, 40_000])
        batches = st.lists(st.dictionaries(keys, st.tuples(sizes, st.integers(1, 9)), max_size=4), max_size=4)

        @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(batches, batches, st.integers(0, 9))
        def check(before: list[dict[str, tuple[int, int]]], after: list[dict[str, tuple[int, int]]], now: int) -> None:
            store, written, filled = open_store(), uuid4().hex, uuid4().hex
            for batch in before:
                for view in (written, filled):
                    _write(store, view, batch, b"old")
            for batch in after:
                _write(store, written, batch, b"new")
            store.fill(filled, (_columns(batch, b"new") for batch in after))
            for _ in range(2):
                one, other = (open_store().read([(view, key) for key in (*_KEYS, "none")]) for view in (written, filled))
                assert one == other
                store.sweep(now)
            assert store.lost() == []
            store.clear(written)
            store.clear(filled)

        check()

    @keeps("filling")
    def test_a_fill_that_fails_keeps_the_batches_before(self, open_store: Callable[[], BulkStore]) -> None:
        """And what they are due at."""

        def batches() -> Iterator[States]:
            yield States(["a", "b"], [b"1", b"2"], [5, 7])
            raise KeyboardInterrupt

        store = open_store()
        with pytest.raises(KeyboardInterrupt):
            store.fill("v", batches())
        store.fill("w", [States(["a"], [b"3"], [5])])
        assert open_store().read([("v", "a"), ("v", "b"), ("w", "a")]) == [b"1", b"2", b"3"]
        assert store.sweep(5) == 2
        assert store.read([("v", "a"), ("v", "b"), ("w", "a")]) == [None, b"2", None]

    @keeps("filling")
    def test_a_killed_fill_leaves_whole_batches(self, open_store: Callable[[], BulkStore]) -> None:
        """Each as it was after some fill, the first one as new as the second or one newer."""
        told = until_killed(_fill_for_ever, open_store)
        found = [open_store().read([("v", str(key)) for key in keys]) for keys in _HALVES]
        first, second = (int(body or -1) for body in (found[0][0], found[1][0]))
        assert [set(bodies) for bodies in found] == [{b"%d" % first}, {b"%d" % second}]
        assert second in (told[-1], told[-1] + 1)
        assert first in (second, second + 1)
        assert open_store().sweep(10) == _MANY


class GridStoreContract(OnlineStoreContract):
    """Supply an `open_store` fixture as for an `OnlineStore`."""

    @keeps("grids")
    def test_grids_are_what_a_read_answers(self, open_store: Callable[[], GridStore]) -> None:
        """Whatever is asked for: nothing, one state, the same twice, many views, many keys, states of any size."""
        store, of = open_store(), uuid4().hex
        views, many = [of + str(i) for i in range(20)], [str(i) for i in range(1500)]
        bodies = {(v, k): f"{v} {k}".encode() * (2000 if k == "7" else 1) for v in views[::2] for k in (*_KEYS, *many[::3], "7")}
        store.write(bodies, {})
        some = st.lists(st.sampled_from([*views, of]), max_size=20), st.lists(st.sampled_from([*_KEYS, *many[:30]]), max_size=40)

        def check(grids: list[tuple[list[str], list[str]]]) -> None:
            expected = [[[bodies.get((v, k)) for k in keys] for v in views] for views, keys in grids]
            assert [[list(states) for states in grid] for grid in store.read_grids(grids)] == expected

        check([(views[:3], many), (views, many[:130]), ([of], many)])
        careful = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        careful(given(st.lists(st.tuples(*some), max_size=4))(check))()

    @keeps("grids")
    def test_grids_are_of_one_moment(self, open_store: Callable[[], GridStore]) -> None:
        """While somebody writes."""
        store, ended, keys, seen = open_store(), Event(), [str(key) for key in range(200)], set[bytes | None]()

        def write() -> None:
            store = open_store()
            for turn in count_from(0):
                store.write({(view, key): b"%d" % turn for view in ("v", "w") for key in keys}, {})
                if ended.is_set():
                    return

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                while len(seen) < 20 and not writing.done():
                    grids = store.read_grids([(["w"], ["1"]), (["v", "w"], keys), (["v"], keys[:9]), (["w"], keys)])
                    bodies = {body for grid in grids for states in grid for body in states}
                    assert len(bodies) == 1
                    seen |= bodies
            finally:
                ended.set()
            writing.result()


_KEYS = ["", "a", "b", 'ü\x00"', "b" * 300]
_MANY = 4000
_HALVES = range(_MANY // 2), range(_MANY // 2, _MANY)


def _columns(batch: Mapping[str, tuple[int, int]], of: bytes) -> States:
    return States(list(batch), [of * size for size, _ in batch.values()], [due for _, due in batch.values()])


def _write(store: OnlineStore, view: str, batch: Mapping[str, tuple[int, int]], of: bytes) -> None:
    bodies = {(view, key): of * size for key, (size, _) in batch.items()}
    store.write(bodies, {}, {(view, key): due for key, (_, due) in batch.items()})


def _fill_for_ever(store: BulkStore, report: Report) -> None:
    for turn in count_from(0):
        store.fill("v", (States(list(map(str, keys)), [b"%d" % turn] * len(keys), [10] * len(keys)) for keys in _HALVES))
        report(turn)


def _write_for_ever(store: OnlineStore, report: Report) -> None:
    for turn in count_from(0):
        store.write({(view, str(key)): b"%d" % turn for view in ("v", "w") for key in range(_MANY)}, {"v": str(turn)})
        report(turn)

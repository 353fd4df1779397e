"""Contracts of the monitoring ports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.definitions import Label, Table
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.monitoring.ports import AlertSink, LabelRow, LabelStore, MetricSink, MetricSource, Observation
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed

_LABEL = Label("late", Table("landings", "files:x", event_time="landed_at", known_time="recorded_at"), "arr_delay > 15", key="flight")
_ROWS = st.builds(
    LabelRow,
    label=st.sampled_from(["late", "lost"]),
    key=st.sampled_from(["a", "b", "ü\x00", ""]),
    value=st.none() | st.sampled_from([0.0, 1.0, 0.25]),
    event_us=st.integers(0, 50),
    known_us=st.integers(0, 50),
    writer=st.sampled_from(["table", "person", "desk"]),
)


def _place(writer: str, writers: Sequence[str]) -> int:
    return writers.index(writer) if writer in writers else len(writers)


class LabelStoreContract(Contract):
    """Supply `new_store`, which makes an empty store, and `opener`: how another process opens what a store wrote to (it can be pickled)."""

    @pytest.fixture
    def new_store(self) -> Callable[[], LabelStore]:
        """Make an empty store, another one at each call."""
        raise NotImplementedError

    @pytest.fixture
    def opener(self) -> Callable[[LabelStore], Callable[[], LabelStore]]:
        """What opens a store's data a second time."""
        raise NotImplementedError

    @keeps("resolved", "history", "once")
    def test_any_history_resolves_like_a_list(self, new_store: Callable[[], LabelStore]) -> None:
        @settings(deadline=None, max_examples=40)
        @given(
            st.lists(st.lists(_ROWS, max_size=8), max_size=4), st.integers(0, 60), st.integers(0, 60),
            st.sampled_from([(), ("person",), ("desk", "table"), ("person", "desk", "table")]),
        )  # fmt: skip
        def check(writes: list[list[LabelRow]], at_us: int, from_event_us: int, writers: tuple[str, ...]) -> None:
            store, written = new_store(), list[LabelRow]()
            for rows in writes:
                fresh = [r for i, r in enumerate(rows) if r not in written and r not in rows[:i]]
                assert store.write(rows) == len(fresh)
                written += fresh
            wanted: dict[str, LabelRow] = {}
            visible = [r for r in written if r.label == "late" and r.known_us <= at_us]
            for row in sorted(visible, key=lambda r: (r.known_us, -_place(r.writer, writers))):
                wanted[row.key] = row
            stated = store.statements("late", at_us).to_pylist()
            assert [LabelRow(**r) for r in stated] == visible
            found = store.as_of("late", at_us, from_event_us=from_event_us, writers=writers).to_pylist()
            kept = [r for r in wanted.values() if r.value is not None and r.event_us >= from_event_us]
            assert {f["key"]: (f["value"], f["event_us"], f["known_us"]) for f in found} == {
                r.key: (r.value, r.event_us, r.known_us) for r in kept
            }
            assert len(found) == len(kept)
            for key in ("a", "ü\x00"):
                told = sorted((r for r in written if (r.label, r.key) == ("late", key)), key=lambda r: r.known_us)
                assert store.history("late", key) == told

        check()

    def test_columns_have_their_types_even_when_empty(self, new_store: Callable[[], LabelStore]) -> None:
        wanted = {"key": pa.string(), "value": pa.float64(), "event_us": pa.int64(), "known_us": pa.int64()}
        found = new_store().as_of("late", 10).schema
        assert {name: found.field(name).type for name in found.names} == wanted

    @keeps("history", "resolved")
    def test_a_revision_keeps_the_history_and_wins_from_when_it_is_known(self, new_store: Callable[[], LabelStore]) -> None:
        store = new_store()
        store.write([LabelRow("late", "f", 0.0, 5, 10), LabelRow("late", "f", 1.0, 5, 20)])
        store.write([LabelRow("late", "f", 0.5, 5, 20, "person")])
        assert [store.as_of("late", t).column("value").to_pylist() for t in (9, 10, 19, 20)] == [[], [0.0], [0.0], [0.5]]
        assert [r.value for r in store.history("late", "f")] == [0.0, 1.0, 0.5]

    @keeps("resolved")
    def test_an_older_statement_that_comes_late_does_not_win(self, new_store: Callable[[], LabelStore]) -> None:
        store = new_store()
        store.write([LabelRow("late", "f", 1.0, 5, 20)])
        assert store.as_of("late", 30).column("value").to_pylist() == [1.0]
        store.write([LabelRow("late", "f", 0.0, 5, 10)])
        assert store.as_of("late", 30).column("value").to_pylist() == [1.0]
        assert store.as_of("late", 15).column("value").to_pylist() == [0.0]

    @keeps("once")
    def test_tables_are_written_once_and_seen_by_others(
        self, new_store: Callable[[], LabelStore], opener: Callable[[LabelStore], Callable[[], LabelStore]]
    ) -> None:
        store, n = new_store(), 2000
        rows = pa.table(
            {
                "label": ["late"] * n,
                "key": [f"f{i}" for i in range(n)],
                "value": [float(i % 2) for i in range(n)],
                "event_us": list(range(n)),
                "known_us": list(range(n)),
                "writer": ["table"] * n,
            }
        )
        other = opener(store)()
        assert other.as_of("late", n).num_rows == 0
        assert (store.write(rows), store.write(rows), other.write(rows.slice(5, 7))) == (n, 0, 0)
        assert other.as_of("late", n).num_rows == n
        assert other.write([LabelRow("late", "f1", None, 1, n + 1)]) == 1
        assert store.as_of("late", n + 1).num_rows == n - 1

    def test_lasting_after_kill_9(
        self, new_store: Callable[[], LabelStore], opener: Callable[[LabelStore], Callable[[], LabelStore]]
    ) -> None:
        reopen = opener(new_store())
        last = until_killed(_state_for_ever, reopen)[-1]
        found = reopen().as_of("late", 1_000_000).column("key").to_pylist()
        assert sorted(found) == sorted(f"{turn}-{part}" for turn in range(len(found) // _MANY) for part in range(_MANY))
        assert len(found) in (_MANY * (last + 1), _MANY * (last + 2))

    def test_a_table_that_lacks_a_column_is_refused(self, new_store: Callable[[], LabelStore]) -> None:
        with pytest.raises(InvalidError, match="known_us"):
            new_store().write(pa.table({"label": ["late"], "key": ["f"], "value": [1.0], "event_us": [1], "writer": ["table"]}))

    @keeps("derived")
    def test_derive_evaluates_the_expression_and_nulls_are_no_label(self, new_store: Callable[[], LabelStore]) -> None:
        store, times = new_store(), pa.timestamp("us", tz="UTC")
        rows = pa.table(
            {
                "flight": ["a", "b", "c", None],
                "arr_delay": [16.0, 15.0, None, 99.0],
                "landed_at": pa.array([1, 2, 3, 4], times),
                "recorded_at": pa.array([11, 12, 13, 14], times),
            }
        )
        derived = store.derive(_LABEL, rows)
        assert {(r["key"], r["value"], r["event_us"], r["known_us"], r["label"]) for r in derived.to_pylist()} == {
            ("a", 1.0, 1, 11, "late"),
            ("b", 0.0, 2, 12, "late"),
            ("c", None, 3, 13, "late"),
        }
        assert store.write(derived) == 3
        assert sorted(store.as_of("late", 20).column("key").to_pylist()) == ["a", "b"]

    def test_a_wrong_expression_says_which_label(self, new_store: Callable[[], LabelStore]) -> None:
        with pytest.raises(InvalidError, match=r"'late'.*'landings'"):
            new_store().derive(_LABEL, pa.table({"flight": ["a"], "landed_at": [1], "recorded_at": [1]}))


_MANY = 1000


def _state_for_ever(store: LabelStore, report: Report) -> None:
    for turn in count():
        store.write([LabelRow("late", f"{turn}-{part}", 1.0, turn, turn) for part in range(_MANY)])
        report(turn)


def _observation(**changes: Any) -> Observation:
    values: dict[str, Any] = {"service": "delay", "version": 1, "objective": "log_loss", "from_us": 0, "until_us": 10, "value": 0.5}
    values |= {"low": 0.4, "high": 0.6, "n": 100, "covered": 90, "body": {"method": "t"}}
    return Observation(**values | changes)


class MetricSinkContract(Contract):
    """Supply `sink` and `source`, two ends of one store; `source` may be the same object."""

    @pytest.fixture
    def sink(self) -> MetricSink:
        """Where observations go."""
        raise NotImplementedError

    @pytest.fixture
    def source(self) -> MetricSource:
        """Where they come back from."""
        raise NotImplementedError

    @keeps("found")
    def test_what_was_written_is_read_by_time(self, sink: MetricSink, source: MetricSource) -> None:
        later, sooner = _observation(from_us=10, until_us=20), _observation()
        sink.write([later, sooner], at_us=30)
        assert source.read("delay") == [sooner, later]
        assert source.read("delay")[0].coverage == pytest.approx(0.9)

    @keeps("restated")
    def test_the_same_window_is_restated(self, sink: MetricSink, source: MetricSource) -> None:
        sink.write([_observation()], at_us=30)
        restated = _observation(value=0.55, low=None, high=None, covered=100, body={"final": True})
        sink.write([restated], at_us=40)
        assert source.read("delay") == [restated]

    @keeps("found")
    def test_reading_selects(self, sink: MetricSink, source: MetricSource) -> None:
        psi, other = _observation(objective="psi:max"), _observation(version=2, value=None, low=None, high=None, n=0, covered=0)
        sink.write([_observation(), psi, other, _observation(service="fares")], at_us=30)
        assert source.read("delay", objective="psi:max") == [psi]
        assert source.read("delay", version=2) == [other]
        assert source.read("delay", from_us=10) == []
        assert len(source.read("delay", from_us=9)) == 3
        assert other.coverage == 0.0

    def test_writing_nothing_is_nothing(self, sink: MetricSink, source: MetricSource) -> None:
        sink.write([], at_us=30)
        assert source.read("delay") == []


class AlertSinkContract(Contract):
    """Supply `sink`, `received` (the subjects that arrived) and `dead`, a sink that nobody listens to (None: it cannot be)."""

    timeout_s = 2.0

    @pytest.fixture
    def sink(self) -> AlertSink:
        """Where alerts go."""
        raise NotImplementedError

    @pytest.fixture
    def received(self) -> Callable[[], list[str]]:
        """Subjects that arrived, in order."""
        raise NotImplementedError

    @pytest.fixture
    def dead(self) -> AlertSink | None:
        """A sink whose other end never answers, told to wait `timeout_s` at most."""
        raise NotImplementedError

    @keeps("at least once")
    def test_an_alert_that_was_sent_has_arrived(self, sink: AlertSink, received: Callable[[], list[str]]) -> None:
        sink.send("drift of sky__temp", {"value": 0.31, "bad": float("nan")})
        sink.send("rolled back", {})
        assert list(dict.fromkeys(received())) == ["drift of sky__temp", "rolled back"]

    @keeps("bounded", "at least once")
    def test_nobody_there_is_said_in_time(self, dead: AlertSink | None) -> None:
        if dead is None:
            return
        start = time.monotonic()
        with pytest.raises(UnavailableError, match="may be sent again"):
            dead.send("rolled back", {})
        assert time.monotonic() - start < self.timeout_s + 2

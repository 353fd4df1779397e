"""What every source and stream must keep."""

import threading
from collections.abc import Callable
from itertools import count

import pyarrow as pa
import pytest

from tidemill.core.clock import WallClock
from tidemill.core.instants import DAY_US, HOUR_US, SECOND_US
from tidemill.ingestion.ports import Batch, Extent, Source, Stream, UnreadableError
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed

Give = Callable[[int, list[tuple[int, str]]], None]
"""Make the rows [(known_us, text)] come as the batch of day `number` since the epoch."""


def _drain(source: Source, after: str | None, until_us: int) -> list[Batch]:
    return list(source.read(after=after, until_us=until_us))


def _texts(batches: list[Batch]) -> list[str]:
    return [text for batch in batches for text in batch.rows["text"].to_pylist()]


class SourceContract(Contract):
    """Supply a `source` of rows with the columns `at` (both clocks) and `text`, and `give`, which makes rows come to it.

    Each day's rows are one batch, available when the day is over.
    """

    @pytest.fixture
    def source(self) -> Source:
        """The source under test, empty."""
        raise TypeError("supply a `source` fixture")

    @pytest.fixture
    def give(self) -> Give:
        """Adds rows to the source."""
        raise TypeError("supply a `give` fixture")

    @pytest.fixture
    def spoil(self) -> Callable[[int], None] | None:
        """Makes the batch of a day unreadable; None when the source cannot have such."""
        return None

    @pytest.fixture
    def days(self, source: Source, give: Give) -> Source:
        """Ten days with one to three rows each."""
        for day in range(10, 20):
            give(day, [(day * DAY_US + n * HOUR_US, f"{day}-{n}") for n in range(1 + day % 3)])
        return source

    def test_resumable_from_any_cursor(self, days: Source) -> None:
        whole = _drain(days, None, 30 * DAY_US)
        assert len(whole) == 10
        assert _texts(whole) == [f"{day}-{n}" for day in range(10, 20) for n in range(1 + day % 3)]
        for index, batch in enumerate(whole):
            rest = _drain(days, batch.cursor, 30 * DAY_US)
            assert [b.id for b in rest] == [b.id for b in whole[index + 1 :]]

    def test_patient_until_the_batch_has_come(self, days: Source) -> None:
        for until in (0, 11 * DAY_US - 1, 11 * DAY_US, 15 * DAY_US, 15 * DAY_US + HOUR_US):
            given = _drain(days, None, until)
            assert len(given) == max(min(until // DAY_US, 20) - 10, 0)
            assert all(batch.available_us <= until for batch in given)
            assert [batch.available_us for batch in given] == sorted(batch.available_us for batch in given)

    @keeps("resumable", "patient")
    def test_reading_step_by_step_gives_the_same(self, days: Source) -> None:
        steps, cursor = [], None
        for hour in range(9 * 24, 22 * 24, 5):
            for batch in _drain(days, cursor, hour * HOUR_US):
                steps.append(batch)
                cursor = batch.cursor
        assert [(b.id, b.cursor) for b in steps] == [(b.id, b.cursor) for b in _drain(days, None, 30 * DAY_US)]

    def test_repeatable(self, days: Source) -> None:
        first, second = _drain(days, None, 30 * DAY_US), _drain(days, None, 30 * DAY_US)
        assert [b.id for b in first] == [b.id for b in second]
        assert len({b.id for b in first}) == len(first)
        assert all(a.rows.equals(b.rows) for a, b in zip(first, second, strict=True))

    def test_times_are_utc_microseconds(self, days: Source) -> None:
        batch = _drain(days, None, 12 * DAY_US)[0]
        assert batch.rows.schema.field("at").type == pa.timestamp("us", tz="UTC")
        assert batch.rows["at"].cast(pa.int64()).to_pylist() == [10 * DAY_US, 10 * DAY_US + HOUR_US]

    @keeps("honest")
    def test_an_unreadable_batch_is_told_in_its_place(self, days: Source, spoil: Callable[[int], None] | None) -> None:
        if spoil is None:
            pytest.skip("this source cannot have an unreadable batch")
        whole = _drain(days, None, 30 * DAY_US)
        spoil(14)
        got: list[str] = []
        with pytest.raises(UnreadableError) as caught:
            got.extend(batch.id for batch in days.read(after=None, until_us=30 * DAY_US))
        assert got == [b.id for b in whole[:4]]
        assert len(_drain(days, None, 15 * DAY_US - 1)) == 4
        assert caught.value.available_us == 15 * DAY_US
        assert caught.value.id not in {b.id for b in whole}
        rest = _drain(days, caught.value.cursor, 30 * DAY_US)
        assert [b.id for b in rest] == [b.id for b in whole[5:]]


class StreamContract(Contract):
    """Supply a `stream` fixture and `reopen`, which opens the same stream again as another process would (and can be pickled)."""

    @pytest.fixture
    def stream(self) -> Stream:
        """The stream under test, empty."""
        raise TypeError("supply a `stream` fixture")

    @pytest.fixture
    def reopen(self) -> Callable[[], Stream]:
        """Opens the stream anew."""
        raise TypeError("supply a `reopen` fixture")

    @keeps("ordered")
    def test_offsets_count_from_zero_without_gaps(self, stream: Stream) -> None:
        assert stream.append("a", [b"0", b"1"]) == 2
        assert stream.append("a", []) == 2
        assert stream.append("a", [b"", b"\x00" * 70_000]) == 4
        assert [(r.offset, r.body) for r in stream.read("a", 0)] == [(0, b"0"), (1, b"1"), (2, b""), (3, b"\x00" * 70_000)]

    @keeps("ordered")
    def test_any_offset_and_limit_can_be_read(self, stream: Stream) -> None:
        for n in range(30):
            stream.append("a", [b"%d-%d" % (n, i) for i in range(n % 4)])
        whole = stream.read("a", 0)
        for offset in range(len(whole) + 2):
            for limit in (1, 3, 100):
                assert stream.read("a", offset, limit=limit) == whole[offset : offset + limit]

    def test_topics_are_apart(self, stream: Stream) -> None:
        stream.append("a", [b"x"])
        stream.append("b", [b"y"])
        assert [r.body for r in stream.read("a", 0)] == [b"x"]
        assert [r.body for r in stream.read("b", 0)] == [b"y"]
        assert stream.read("c", 0) == []

    @keeps("ordered")
    def test_another_reader_sees_the_same(self, stream: Stream, reopen: Callable[[], Stream]) -> None:
        other = reopen()
        assert other.read("a", 0) == []
        stream.append("a", [b"x", b"y"])
        assert other.read("a", 0) == stream.read("a", 0)
        other.append("a", [b"z"])
        assert [r.body for r in stream.read("a", 1)] == [b"y", b"z"]
        assert reopen().read("a", 0) == stream.read("a", 0)

    @keeps("measured")
    def test_measured_from_the_first_offset_to_the_end(self, stream: Stream, reopen: Callable[[], Stream]) -> None:
        assert stream.extent("a") == [Extent(0, 0)]
        stream.append("a", [b"x", b"y"])
        stream.append("a", [b"z"])
        for one in (stream, reopen()):
            assert one.extent("a") == [Extent(0, 3)]
            assert one.read("a", one.extent("a")[0].end) == []

    @keeps("timed")
    def test_timed_by_the_stream(self, stream: Stream, reopen: Callable[[], Stream]) -> None:
        before = WallClock().now_us()
        stream.append("a", [b"x", b"y"])
        stream.append("a", [b"z"])
        after = WallClock().now_us()
        times = [r.at_us for r in reopen().read("a", 0)]
        assert times == sorted(times)
        assert before - SECOND_US <= times[0]
        assert times[-1] <= after + SECOND_US

    @keeps("ordered", "whole")
    def test_threads_lose_nothing_and_appends_stay_whole(self, stream: Stream, reopen: Callable[[], Stream]) -> None:
        streams = [stream, reopen()]

        def work(number: int) -> None:
            for i in range(20):
                streams[number % 2].append("a", [b"%d:%d:%d" % (number, i, part) for part in range(3)])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bodies = [r.body for r in reopen().read("a", 0)]
        assert len(bodies) == len(set(bodies)) == 360
        for at in range(0, 360, 3):
            assert [b.rsplit(b":", 1)[0] for b in bodies[at : at + 3]] == [bodies[at].rsplit(b":", 1)[0]] * 3
        for number in range(6):
            mine = [b for b in bodies if b.startswith(b"%d:" % number)]
            assert mine == [b"%d:%d:%d" % (number, i, part) for i in range(20) for part in range(3)]

    @keeps("whole")
    def test_durable_after_kill_9(self, reopen: Callable[[], Stream]) -> None:
        last = until_killed(_append_for_ever, reopen)[-1]
        bodies = [r.body for r in reopen().read("a", 0, limit=1_000_000)]
        assert len(bodies) in (_MANY * (last + 1), _MANY * (last + 2))
        assert bodies == [b"%d:%d" % (turn, part) for turn in range(len(bodies) // _MANY) for part in range(_MANY)]
        assert reopen().append("a", [b"on"]) == len(bodies) + 1


_MANY = 3000


def _append_for_ever(stream: Stream, report: Report) -> None:
    for turn in count():
        stream.append("a", [b"%d:%d" % (turn, part) for part in range(_MANY)])
        report(turn)

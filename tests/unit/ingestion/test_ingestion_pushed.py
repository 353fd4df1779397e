"""Pushed rows become batches that stay the same however often they are read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tidemill.core.clock import WallClock
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import HOUR_US, format_instant
from tidemill.ingestion.embedded import LogStream, open_source
from tidemill.ingestion.eventquarantine import EventQuarantine
from tidemill.ingestion.ports import Batch, Source

TABLE = Table("taps", "push:", event_time="at", known_time="seen_at", key="id")


class Pushes:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.stream = LogStream(root)

    def push(self, *rows: dict[str, Any]) -> None:
        self.stream.append("taps", [json.dumps({"at": 1, "seen_at": 1} | row).encode() for row in rows])

    def source(self) -> Source:
        """As a new process would."""
        return open_source("push:", self.root, TABLE, LogStream(self.root))

    def read(self, after: str | None = None, until_us: int = 100, source: Source | None = None) -> list[Batch]:
        return list((source or self.source()).read(after=after, until_us=until_us))


@pytest.fixture
def pushes(tmp_path: Path) -> Pushes:
    return Pushes(tmp_path)


def _ids(batches: list[Batch]) -> list[list[Any]]:
    return [batch.rows["id"].to_pylist() for batch in batches]


def test_a_batch_is_what_came_until_it_was_asked_for(pushes: Pushes) -> None:
    assert pushes.read() == []
    pushes.push({"id": "a"}, {"id": "b"})
    (first,) = pushes.read(until_us=10)
    assert (_ids([first]), first.cursor, first.available_us) == ([["a", "b"]], "2", 10)
    pushes.push({"id": "c"})
    assert _ids(pushes.read(first.cursor, 20)) == [["c"]]


def test_reading_again_gives_the_same_batches_whatever_was_pushed_since(pushes: Pushes) -> None:
    pushes.push({"id": "a"})
    (first,) = pushes.read(until_us=10)
    pushes.push({"id": "b"})
    again = pushes.read(until_us=20)
    assert again[0].id == first.id
    assert _ids(again) == [["a"], ["b"]]
    assert [b.id for b in pushes.read(until_us=30)] == [b.id for b in again]
    assert _ids(pushes.read(until_us=10)) == [["a"]]


def test_two_readers_agree_on_the_batches(pushes: Pushes) -> None:
    one, two = pushes.source(), pushes.source()
    for n in range(6):
        pushes.push({"id": n}, {"id": -n})
        pushes.read(None, 10 + n, (one, two)[n % 2])
    batches = [[b.id for b in pushes.read(None, 100, source)] for source in (one, two, pushes.source())]
    assert batches[0] == batches[1] == batches[2]
    assert len(batches[0]) == 6


def test_times_and_absent_and_mixed_values(pushes: Pushes) -> None:
    pushes.push({"id": 1, "at": "1970-01-01T00:00:01Z", "v": 1}, {"id": 2, "at": 2, "w": "x", "v": "y"})
    (batch,) = pushes.read()
    assert batch.rows["at"].cast(pa.int64()).to_pylist() == [1_000_000, 2]
    assert batch.rows.select(["v", "w"]).to_pylist() == [{"v": "1", "w": None}, {"v": "y", "w": "x"}]


def test_what_is_no_row_is_set_aside_with_its_place_and_the_others_come(pushes: Pushes) -> None:
    ahead = format_instant(WallClock().now_us() + 2 * HOUR_US)
    bodies = [b"{not json", b"[1]", b'{"id": 1, "at": 5}', b'{"seen_at": 1, "id": 2}', b'{"at": true, "seen_at": 1, "id": 3}']
    bodies += [b'{"at": 1, "seen_at": 1}', json.dumps({"id": 4, "at": ahead, "seen_at": 1}).encode(), b"\xff\xfe"]
    pushes.stream.append("taps", bodies)
    (batch,) = pushes.read()
    assert _ids([batch]) == [[1]]
    assert pc.is_valid(batch.rows["seen_at"]).to_pylist() == [True], "without a known time, it is known from its arrival on"
    kept = EventQuarantine(LogStream(pushes.root), "taps").newest(20)
    assert [(q.offset, q.kind) for q in kept[::-1]] == [
        (0, "unreadable"), (1, "unreadable"), (3, "incomplete"), (4, "incomplete"), (5, "incomplete"), (6, "future"), (7, "unreadable")
    ]  # fmt: skip
    assert (kept[0].body, kept[1].reason.count("ahead of its arrival"), kept[2].reason) == (
        "\\xff\\xfe", 1, "lacks id, of the key of table 'taps'"
    )  # fmt: skip
    pushes.read()
    assert EventQuarantine(pushes.stream, "taps").counts() == {"unreadable": 3, "incomplete": 3, "future": 1}, "read again, kept once"


def test_a_batch_of_nothing_but_junk_is_passed_over(pushes: Pushes) -> None:
    pushes.stream.append("taps", [b"{not json"])
    assert pushes.read() == []
    pushes.push({"id": "a"})
    (batch,) = pushes.read()
    assert (_ids([batch]), batch.origin, pushes.read(batch.cursor)) == ([["a"]], "pushed 1 to 2", [])


def test_how_far_ahead_an_event_may_lie_is_the_tables_to_say(pushes: Pushes) -> None:
    ahead = WallClock().now_us() + 3 * HOUR_US
    pushes.push({"id": "a", "at": ahead}, {"id": "b", "seen_at": ahead}, {"id": "c"})
    for table, skew_us, came in (
        (TABLE, HOUR_US, ["c"]),
        (TABLE, 4 * HOUR_US, ["a", "b", "c"]),
        (replace(TABLE, skew="4h"), 1, ["a", "b", "c"]),
    ):
        source = open_source("push:", pushes.root, table, pushes.stream, skew_us=skew_us)
        assert _ids(pushes.read(source=source)) == [came]


def test_a_foreign_cursor_is_refused(pushes: Pushes) -> None:
    with pytest.raises(InvalidError, match="is not a cursor of pushed rows"):
        pushes.read("2013-01-01")


def test_of_two_cuts_made_at_the_same_time_the_one_behind_counts_for_nothing(pushes: Pushes) -> None:
    pushes.push({"id": "a"}, {"id": "b"}, {"id": "c"})
    for end in (2, 1, 2):
        pushes.stream.append("taps-cuts", [json.dumps([end, 10]).encode()])
    assert _ids(pushes.read(until_us=20)) == [["a", "b"], ["c"]]

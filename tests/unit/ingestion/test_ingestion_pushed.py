"""Pushed rows become batches that stay the same however often they are read."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.ingestion.embedded import LogStream, open_source
from tidemill.ingestion.ports import Batch, Source, UnreadableError

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


def test_an_unreadable_record_is_told_with_its_place(pushes: Pushes) -> None:
    pushes.stream.append("taps", [b"{not json"])
    with pytest.raises(UnreadableError, match="pushed 0 to 1") as caught:
        pushes.read()
    pushes.push({"id": "a"})
    assert _ids(pushes.read(caught.value.cursor)) == [["a"]]


def test_a_foreign_cursor_is_refused(pushes: Pushes) -> None:
    with pytest.raises(InvalidError, match="is not a cursor of pushed rows"):
        pushes.read("2013-01-01")


def test_of_two_cuts_made_at_the_same_time_the_one_behind_counts_for_nothing(pushes: Pushes) -> None:
    pushes.push({"id": "a"}, {"id": "b"}, {"id": "c"})
    for end in (2, 1, 2):
        pushes.stream.append("taps-cuts", [json.dumps([end, 10]).encode()])
    assert _ids(pushes.read(until_us=20)) == [["a", "b"], ["c"]]

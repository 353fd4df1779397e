"""Two folders and what is pushed, read as one source, keep what each of them keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.ingestion.embedded import LogStream, open_source
from tidemill.ingestion.ports import Source
from tidemill.testing.ingestion import Give, SourceContract

TABLE = Table("notes", ("files:even", "files:odd", "push:"), event_time="at", known_time="at")


def _path(root: Path, day: int) -> Path:
    return root / ("odd" if day % 2 else "even") / f"{format_instant(day * DAY_US)[:10]}.parquet"


def _write(path: Path, rows: list[tuple[int, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"at": pa.array([us for us, _ in rows], pa.timestamp("us", "UTC")), "text": [t for _, t in rows]}), path)


class TestMergedSource(SourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return open_source(TABLE.sources, tmp_path, TABLE, LogStream(tmp_path / "stream"))

    @pytest.fixture
    def give(self, tmp_path: Path) -> Give:
        return lambda day, rows: _write(_path(tmp_path, day), rows)

    @pytest.fixture
    def spoil(self, tmp_path: Path) -> Callable[[int], None]:
        def spoil(day: int) -> None:
            _path(tmp_path, day).write_bytes(b"no parquet")

        return spoil


def test_pushed_rows_come_beside_those_of_files(tmp_path: Path) -> None:
    stream = LogStream(tmp_path / "stream")
    source = open_source(TABLE.sources, tmp_path, TABLE, stream)
    _write(_path(tmp_path, 10), [(10 * DAY_US, "file")])
    stream.append("notes", [json.dumps({"at": 1, "text": "pushed"}).encode()])
    taken = list(source.read(after=None, until_us=12 * DAY_US))
    assert [b.rows["text"].to_pylist() for b in taken] == [["file"], ["pushed"]]
    assert list(source.read(after=taken[-1].cursor, until_us=13 * DAY_US)) == []
    stream.append("notes", [json.dumps({"at": 2, "text": "again"}).encode()])
    assert [b.rows["text"].to_pylist() for b in source.read(after=taken[0].cursor, until_us=13 * DAY_US)] == [["pushed"], ["again"]]


@pytest.mark.parametrize("cursor", ["7", "[null]", "{"])
def test_a_cursor_of_something_else_is_refused(tmp_path: Path, cursor: str) -> None:
    source = open_source(TABLE.sources, tmp_path, TABLE, LogStream(tmp_path / "stream"))
    with pytest.raises(InvalidError, match="not a cursor of 3 sources"):
        list(source.read(after=cursor, until_us=1))


def test_one_file_is_a_source_and_written_anew_a_new_batch(tmp_path: Path) -> None:
    path = tmp_path / "notes.parquet"
    _write(tmp_path / "other.parquet", [(3, "not this")])
    _write(path, [(1, "a")])
    source = open_source(f"files:{path}", tmp_path, TABLE)
    (first,) = source.read(after=None, until_us=2**60)
    assert list(source.read(after=first.cursor, until_us=2**60)) == []
    assert list(source.read(after=None, until_us=first.available_us - 1)) == []
    _write(path, [(1, "a"), (2, "b")])
    (second,) = [b for b in source.read(after=first.cursor, until_us=2**60) if b.id != first.id]
    assert second.rows["text"].to_pylist() == ["a", "b"]

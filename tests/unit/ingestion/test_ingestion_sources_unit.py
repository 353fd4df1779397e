"""Names, URLs and file formats of the embedded sources."""

import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, NotFoundError, RefusedError, TidemillError, UnavailableError
from tidemill.core.instants import DAY_US, parse_instant
from tidemill.ingestion.embedded import open_source
from tidemill.ingestion.embedded.files import stamp_us
from tidemill.ingestion.embedded.readers import read_rows

TABLE = Table("t", "", event_time="at", known_time="at")


@pytest.mark.parametrize(
    ("name", "instant"),
    [
        ("2013-05-14.parquet", "2013-05-15T00:00:00Z"),
        ("2013-05-14.r1.parquet", "2013-05-15T00:00:00Z"),
        ("2013-05-14-late.csv", "2013-05-15T00:00:00Z"),
        ("2013-05-14T1200.parquet", "2013-05-14T12:00:00Z"),
        ("2013-05-14T12:00:30.csv", "2013-05-14T12:00:30Z"),
        ("2013-05-14T120030Z.jsonl", "2013-05-14T12:00:30Z"),
    ],
)
def test_names_say_when_a_file_counts(name: str, instant: str) -> None:
    assert stamp_us(name) == parse_instant(instant)


@pytest.mark.parametrize("name", ["planes.parquet", "2013-02-30.parquet", "2013-13-01.csv", "20130514.parquet", "x2013-05-14.csv"])
def test_other_names_count_from_their_modification_time(name: str, tmp_path: Path) -> None:
    assert stamp_us(name) is None
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text("at\n2013-05-14\n")
    else:
        pq.write_table(pa.table({"at": ["2013-05-14"]}), path)
    os.utime(path, (1_000_000, 1_000_000))
    source = open_source("files:.", tmp_path, TABLE)
    assert list(source.read(after=None, until_us=10**12 - 1)) == []
    assert [b.available_us for b in source.read(after=None, until_us=10**12)] == [10**12]


def test_drafts_and_strangers_are_passed_over(tmp_path: Path) -> None:
    for name in (".2013-05-14.csv", "_2013-05-14.csv", "2013-05-14.csv.part", "2013-05-14.tmp", "README", "notes.txt"):
        (tmp_path / name).write_text("at\n2013-05-14\n")
    (tmp_path / "2013-05-15.csv").mkdir()
    assert list(open_source("files:.", tmp_path, TABLE).read(after=None, until_us=2**60)) == []


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert list(open_source("files:later", tmp_path, TABLE).read(after=None, until_us=2**60)) == []


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("data/landings", NotFoundError, "no scheme of sources named 'data/landings'"),
        ("kafka:topic", NotFoundError, "known: files, push, sqlite"),
        ("file:data", NotFoundError, "did you mean 'files'"),
        ("files:", InvalidError, "names no path"),
        ("files:../other", RefusedError, "leaves the project"),
        ("files:data/../../other", RefusedError, "leaves the project"),
        ("push:", InvalidError, "on a stack that has a stream"),
        ("push:t", InvalidError, "on a stack that has a stream"),
        ("sqlite://host/x.db", InvalidError, "names no file"),
        ("sqlite:///x.db?tabel=y", InvalidError, "unknown option 'tabel'"),
        ("sqlite:///x.db?table=y;drop", InvalidError, "is no plain SQL name"),
        ("sqlite:///x.db?every=soon", InvalidError, "is not a duration"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, error: type[TidemillError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        open_source(url, tmp_path, TABLE)


def test_a_foreign_cursor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "2013-05-14.csv").write_text("at\n2013-05-14\n")
    with pytest.raises(InvalidError, match="is not a cursor"):
        list(open_source("files:.", tmp_path, TABLE).read(after="17", until_us=2**60))


def test_csv_nulls_texts_and_times() -> None:
    body = b'at,n,s,q\n2013-01-01T05:00:00+01:00,NA,NA,"NA"\n2013-01-01 04:00:00,1.5,x,\n'
    rows = read_rows("a.csv", body, TABLE)
    assert rows["at"].cast(pa.int64()).to_pylist() == [parse_instant("2013-01-01T04:00:00Z")] * 2
    assert rows.select(["n", "s", "q"]).to_pylist() == [{"n": None, "s": None, "q": "NA"}, {"n": 1.5, "s": "x", "q": None}]


@pytest.mark.parametrize(
    "body", [b'[{"at": "2013-01-01", "n": 1},\n {"at": "2013-01-02"}]', b'{"at": "2013-01-01", "n": 1}\n{"at": "2013-01-02"}']
)
def test_json_is_lines_or_a_list(body: bytes) -> None:
    assert read_rows("a.json", body, TABLE)["n"].to_pylist() == [1, None]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.json", b"[1, 2]", "cannot be read as JSON"),
        ("a.json", b"[{]", "cannot be read as JSON"),
        ("a.csv", b"at,n\n2013-01-01\n", "cannot be read as CSV"),
        ("a.csv", b"at,at\n2013-01-01,2013-01-01\n", "has the column 'at' twice"),
        ("a.csv", b"at\nyesterday\n", "'yesterday' is not an ISO 8601 time"),
        ("a.csv", b"at\n1357000000\n", "should hold times but is of type int64"),
        ("a.jsonl", b'{"at": "2013-01-01"\n', "cannot be read as JSONL"),
        ("a.jsonl", b"\n", "has no rows"),
        ("a.parquet", b"PAR1", "cannot be read as PARQUET"),
    ],
)
def test_a_broken_file_says_how(name: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        read_rows(name, body, TABLE)


def test_types_become_those_that_tables_hold() -> None:
    rows = pa.table(
        {
            "at": pa.array([1_357_000_000_123_456_789], pa.timestamp("ns", tz="America/New_York")),
            "code": pa.array(["x"]).dictionary_encode(),
            "big": pa.array(["y"], pa.large_string()),
            "u": pa.array([7], pa.uint32()),
            "half": pa.array([None], pa.float16()),
            "long": pa.array([3], pa.duration("s")),
            "none": pa.nulls(1),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(rows.drop_columns(["half"]), sink)
    got = read_rows("a.parquet", sink.getvalue().to_pybytes(), TABLE)
    assert [str(t) for t in got.schema.types] == ["timestamp[us, tz=UTC]", "string", "string", "int64", "int64", "string"]
    assert got["at"].cast(pa.int64()).to_pylist() == [1_357_000_000_123_456]


def test_sqlite_rows_changed_in_place_come_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "shop.db"
    source = open_source("sqlite:///shop.db?table=orders&every=1h", tmp_path, TABLE)
    with pytest.raises(UnavailableError, match="there is no database"):
        list(source.read(after=None, until_us=DAY_US))
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (at TEXT, n INTEGER, raw BLOB)")
        db.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)", [("1970-01-01T00:10:00Z", 1, b"\xff"), ("1970-01-01 00:50", 2, None), (None, 3, None)]
        )
    (first,) = source.read(after=None, until_us=DAY_US)
    assert (first.rows["n"].to_pylist(), first.cursor) == ([1, 2], "1970-01-01T01:00:00Z")
    assert "sqlite_source.rows_without_known_time" in caplog.messages
    with sqlite3.connect(path) as db:
        db.execute("UPDATE orders SET at = '1970-01-01T05:30:00Z', n = 20 WHERE n = 2")
    assert [b.rows["n"].to_pylist() for b in source.read(after=first.cursor, until_us=DAY_US)] == [[20]]


def test_a_sqlite_table_that_is_missing_is_unavailable(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "shop.db").close()
    (tmp_path / "shop.db").touch()
    with pytest.raises(UnavailableError, match="no such table: t"):
        list(open_source("sqlite:///shop.db", tmp_path, TABLE).read(after=None, until_us=DAY_US))

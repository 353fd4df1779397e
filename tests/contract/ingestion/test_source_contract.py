import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tidemill.core.definitions import Table
from tidemill.core.instants import DAY_US, format_instant
from tidemill.ingestion.embedded import open_source
from tidemill.ingestion.ports import Source
from tidemill.testing.ingestion import Give, SourceContract

TABLE = Table("notes", "", event_time="at", known_time="at")


def _named(day: int, ending: str) -> str:
    return f"{format_instant(day * DAY_US)[:10]}{ending}"


class _Files(SourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return open_source("files:data/notes", tmp_path, TABLE)

    @pytest.fixture
    def spoil(self, tmp_path: Path) -> Callable[[int], None]:
        def spoil(day: int) -> None:
            next((tmp_path / "data/notes").glob(_named(day, ".*"))).write_bytes(b'{"at": \xff broken,,\n"')

        return spoil


class TestParquetFiles(_Files):
    @pytest.fixture
    def give(self, tmp_path: Path) -> Give:
        def give(day: int, rows: list[tuple[int, str]]) -> None:
            (tmp_path / "data/notes").mkdir(parents=True, exist_ok=True)
            times = pa.array([us * 1000 for us, _ in rows], pa.timestamp("ns"))
            pq.write_table(pa.table({"at": times, "text": [text for _, text in rows]}), tmp_path / "data/notes" / _named(day, ".parquet"))

        return give


class TestCsvFiles(_Files):
    @pytest.fixture
    def give(self, tmp_path: Path) -> Give:
        def give(day: int, rows: list[tuple[int, str]]) -> None:
            (tmp_path / "data/notes").mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{format_instant(us)},{text}\n" for us, text in rows)
            (tmp_path / "data/notes" / _named(day, ".csv")).write_text("at,text\n" + lines)

        return give


class TestJsonFiles(_Files):
    @pytest.fixture
    def give(self, tmp_path: Path) -> Give:
        def give(day: int, rows: list[tuple[int, str]]) -> None:
            (tmp_path / "data/notes").mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps({"at": format_instant(us), "text": text}) + "\n" for us, text in rows)
            (tmp_path / "data/notes" / _named(day, ".jsonl")).write_text(lines)

        return give


class TestSqliteTable(SourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        with sqlite3.connect(tmp_path / "shop.db") as db:
            db.execute("CREATE TABLE note (at TEXT, text)")
        return open_source("sqlite:///shop.db?table=note", tmp_path, TABLE)

    @pytest.fixture
    def give(self, tmp_path: Path) -> Give:
        def give(day: int, rows: list[tuple[int, str]]) -> None:
            with sqlite3.connect(tmp_path / "shop.db") as db:
                db.executemany("INSERT INTO note VALUES (?, ?)", [(format_instant(us), text) for us, text in rows])

        return give

    @pytest.fixture
    def spoil(self, tmp_path: Path) -> Callable[[int], None]:
        def spoil(day: int) -> None:
            with sqlite3.connect(tmp_path / "shop.db") as db:
                db.execute("INSERT INTO note VALUES (?, ?)", (format_instant(day * DAY_US + 1), 5.5))

        return spoil

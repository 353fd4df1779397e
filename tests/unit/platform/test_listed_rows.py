"""Rows that somebody lists in a file are read as they stand, however many they are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.definitions import Definitions
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.platform.frames import listed_groups, listed_rows

THERE = Definitions()
AT = pa.timestamp("ms", "Europe/Paris")


def written(path: Path, rows: int, group: int, **more: pa.Array) -> Path:
    pq.write_table(pa.table({"n": range(rows), "at": pa.array(range(rows), pa.int64()).cast(AT), **more}), path, row_group_size=group)
    return path


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_groups_are_the_rows(tmp_path: Path, rows: int) -> None:
    path = written(tmp_path / "rows.parquet", rows, 3)
    whole = listed_rows(path, THERE)
    assert whole.schema.field("at").type == pa.timestamp("us", "UTC")
    assert whole["at"].cast(pa.int64()).to_pylist() == [n * 1_000 for n in range(rows)]
    groups = list(listed_groups(path, THERE))
    assert [g.num_rows for g in groups if g.num_rows] == [3] * (rows // 3) + [rows % 3] * bool(rows % 3)
    assert [row for group in groups for row in group.to_pylist()] == whole.to_pylist()
    assert {name for group in listed_groups(path, THERE, ["at"]) for name in group.column_names} <= {"at"}


def test_those_of_a_csv_file_are_one_group(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("n,at\n1,2024-01-03T12:00:00Z\n2,2024-01-03T12:00:01Z\n")
    (group,) = listed_groups(path, THERE)
    assert group.equals(listed_rows(path, THERE))
    assert [g.column_names for g in listed_groups(path, THERE, ["at"])] == [["at"]]


def test_no_more_than_a_group_is_in_memory(tmp_path: Path) -> None:
    wide = pa.array([f"{n:01000d}" for n in range(40_000)])
    path = written(tmp_path / "rows.parquet", len(wide), 1_000, wide=wide)
    del wide
    before = pa.default_memory_pool().bytes_allocated()
    most = 0
    for group in listed_groups(path, THERE):
        assert group.num_rows == 1_000
        most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert most < 8e6  # of 40 MB


def test_what_is_wrong_with_the_file_is_said_before_any_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1], "when": [2]}), tmp_path / "rows.parquet")
    with pytest.raises(InvalidError, match=r"lack .at..*they have n, when"):
        next(listed_groups(tmp_path / "rows.parquet", THERE, ["at"]))
    with pytest.raises(NotFoundError, match="neither a file nor a table"):
        next(listed_groups(tmp_path / "none.parquet", THERE))

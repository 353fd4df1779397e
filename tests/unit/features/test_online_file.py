"""Small and large bodies in one file: who changes size moves, and a search never passes a large one."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.features.embedded import SqliteOnlineStore
from tidemill.features.ports import States

SMALL, LARGE = b"s" * 100, b"l" * 100_000
ONE, OTHER = ("a/a", "1"), ("a/a~0", "rows")


def where(path: Path) -> dict[str, str]:
    """Key to the table that holds it."""
    with sqlite3.connect(path) as db:
        return {key: table for table in ("state", "large") for (key,) in db.execute(f"SELECT key FROM {table}")}


def test_large_bodies_have_a_table_of_their_own(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    store.write({ONE: SMALL, OTHER: LARGE}, {})
    assert where(tmp_path / "o.db") == {"1": "state", "rows": "large"}
    assert store.read([ONE, OTHER, ("a/a", "2")]) == [SMALL, LARGE, None]
    many = [ONE, OTHER] * 300
    assert store.read(many) == [SMALL, LARGE] * 300


@pytest.mark.parametrize(("before", "after", "table"), [(SMALL, LARGE, "large"), (LARGE, SMALL, "state"), (LARGE, LARGE + b"x", "large")])
def test_a_body_that_changes_size_is_there_once(tmp_path: Path, before: bytes, after: bytes, table: str) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    store.write({ONE: before, OTHER: LARGE}, {})
    store.write({ONE: after}, {})
    assert store.read([ONE, OTHER]) == [after, LARGE]
    assert where(tmp_path / "o.db") == {"1": table, "rows": "large"}


def test_both_sizes_expire_and_are_cleared(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    store.write({ONE: SMALL, ("a/a", "2"): LARGE, OTHER: LARGE}, {}, {ONE: 10, ("a/a", "2"): 10})
    assert store.sweep(10) == 2
    assert store.read([ONE, ("a/a", "2"), OTHER]) == [None, None, LARGE]
    store.clear("a/a~0")
    assert store.read([OTHER]) == [None]


def test_a_store_from_before_there_were_two_tables(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    store.write({ONE: SMALL}, {"cursor": "7"})
    store.close()
    with sqlite3.connect(tmp_path / "o.db") as db:
        db.execute("DROP TABLE large")
        db.execute("INSERT INTO state VALUES ('a/a~0', 'rows', ?, 5)", (LARGE,))
    again = SqliteOnlineStore(tmp_path / "o.db")
    assert again.read([ONE, OTHER]) == [SMALL, LARGE]
    assert where(tmp_path / "o.db") == {"1": "state", "rows": "large"}
    assert again.sweep(5) == 1
    assert again.cursors() == {"cursor": "7"}


def due_index(path: Path) -> bool:
    """Whether the file has the index by due time."""
    with sqlite3.connect(path) as db:
        return bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'state_due'").fetchone())


def test_a_fill_of_an_empty_store_makes_its_index_last_or_whoever_opens_it_next(tmp_path: Path) -> None:
    """So a killed one costs no index."""
    path, seen = tmp_path / "o.db", list[bool]()

    def batches(*, reopened: bool) -> Iterator[States]:
        yield States(["1", "2"], [SMALL, SMALL], [5, 6])
        seen.append(due_index(path))
        if reopened:
            SqliteOnlineStore(path).close()
            seen.append(due_index(path))
        yield States(["3"], [SMALL], [7])

    store = SqliteOnlineStore(path)
    store.fill("a/a", batches(reopened=False))
    assert seen == [False]
    assert due_index(path)
    assert store.sweep(6) == 2
    store.fill("a/a", batches(reopened=True))
    assert seen == [False, False, True]
    assert store.sweep(6) == 2
    assert store.read([("a/a", key) for key in "123"]) == [None, None, SMALL]


def test_a_fill_beside_many_states_keeps_the_index(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    store = SqliteOnlineStore(path)
    store.write({("b/b", str(i)): SMALL for i in range(9)}, {}, {("b/b", "3"): 5})

    def batches() -> Iterator[States]:
        yield States(["1", "2"], [SMALL, LARGE], [5, 5])
        yield States(["2", "3"], [SMALL, SMALL], [5, 9])
        assert due_index(path)

    store.fill("a/a", batches())
    assert where(path)["2"] == "state"
    assert store.sweep(5) == 3
    assert store.read([("a/a", "3"), ("b/b", "3"), ("b/b", "4")]) == [SMALL, None, SMALL]

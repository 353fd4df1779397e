"""The way to write metrics without SQLite's prepared statements gives the same rows."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from tidemill.core.errors import InvalidError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once

VALUES = (("loss", 0, 1.0), ("loss", 2, 0.5), ("loss", 1, 0.7), ("auc", 0, float("inf")))


def _rows(ledger: Ledger) -> list[list[tuple[object, ...]]]:
    with ledger.read() as db:
        tables = (schema.metric, schema.metric_last, schema.param)
        return [sorted(tuple(row) for row in db.execute(sa.select(table)).all()) for table in tables]


def test_both_ways_write_the_same(tmp_path: Path) -> None:
    fast, portable = (Ledger(f"sqlite:///{tmp_path}/{name}.db") for name in ("fast", "portable"))
    portable._queue = None
    for ledger in (fast, portable):
        ledger.log_metrics("run", VALUES, at_us=1)
        ledger.log_metrics("run", [("loss", 0, 9.0), ("auc", 3, 0.5)], at_us=2)
        ledger.log_params("run", {"leaves": "31", "rate": "0.1"})
        ledger.log_params("run", {"rate": "0.2"})
    assert _rows(fast) == _rows(portable)
    assert len(_rows(fast)[0]) == 5


class _Spy:
    """A connection that remembers what it is asked to run."""

    def __init__(self, name: str) -> None:
        self.dialect = _dialect(name)
        self.ran = ""
        self.rowcount = 1

    def execute(self, statement: sa.Executable) -> "_Spy":
        self.ran = str(statement.compile(dialect=self.dialect))  # type: ignore[attr-defined]
        return self


def _dialect(name: str) -> sa.Dialect:
    made: sa.Dialect = {"postgresql": postgresql.dialect, "mysql": mysql.dialect}[name]()
    return made


@pytest.mark.parametrize(("name", "words"), [("postgresql", "ON CONFLICT DO NOTHING"), ("mysql", "INSERT IGNORE INTO")])
def test_insert_once_speaks_each_dialect(name: str, words: str) -> None:
    spy = _Spy(name)
    assert insert_once(spy, schema.state, {"name": "x", "value": "1", "at_us": 1})  # type: ignore[arg-type]
    assert words in spy.ran


def test_insert_once_refuses_other_databases() -> None:
    spy = _Spy("mysql")
    spy.dialect.name = "oracle"
    with pytest.raises(InvalidError, match="postgresql"):
        insert_once(spy, schema.state, {"name": "x"})  # type: ignore[arg-type]

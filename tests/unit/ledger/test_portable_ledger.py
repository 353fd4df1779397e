"""The way to write metrics without SQLite's prepared statements gives the same rows; which databases a ledger may be in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from tidemill.core.errors import ConfigError, InvalidError
from tidemill.ledger import migrate, schema, servers
from tidemill.ledger.store import Ledger, insert_once

VALUES = (("loss", 0, 1.0), ("loss", 2, 0.5), ("loss", 1, 0.7), ("auc", 0, float("inf")))


def _rows(ledger: Ledger) -> list[list[tuple[object, ...]]]:
    with ledger.read() as db:
        tables = (schema.metric, schema.metric_last, schema.param)
        return [sorted(tuple(row) for row in db.execute(sa.select(table)).all()) for table in tables]


def test_both_ways_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, portable = (Ledger(f"sqlite:///{tmp_path}/{name}.db") for name in ("fast", "portable"))
    monkeypatch.setattr(servers, "turn", lambda engine, durable: engine.begin())
    portable._queue = None
    for ledger in (fast, portable):
        ledger.log_metrics("run", VALUES, at_us=1)
        ledger.log_metrics("run", [("loss", 0, 9.0), ("auc", 3, 0.5)], at_us=2)
        ledger.log_params("run", {"leaves": "31", "rate": "0.1"})
        ledger.log_params("run", {"rate": "0.2"})
    assert _rows(fast) == _rows(portable)
    assert len(_rows(fast)[0]) == 5


def test_other_databases_are_refused() -> None:
    elsewhere: Any = SimpleNamespace(dialect=SimpleNamespace(name="oracle"), execute=print)
    with pytest.raises(InvalidError, match="postgresql"):
        insert_once(elsewhere, schema.state, {"name": "x"})
    for opening in (Ledger, migrate.check, migrate.upgrade):
        with pytest.raises(ConfigError, match=r"'oracle'.*mysql://, postgresql://"):
            opening("oracle://host/db")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_passwords_are_references(scheme: str) -> None:
    with pytest.raises(ConfigError, match="env:NAME") as caught:
        Ledger(f"{scheme}://someone:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="TIDEMILL_TEST_UNSET"):
        Ledger(f"{scheme}://someone:env:TIDEMILL_TEST_UNSET@127.0.0.1:1/db")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name = "postgresql"

        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(servers, "entry_points", lambda group: [Broken()])
    with pytest.raises(ConfigError, match=r"pip install 'tidemill\[postgresql\]'"):
        servers.connect("postgresql://127.0.0.1:1/db")

"""Where a ledger may be, and which ones are opened."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from tests.support.ledger_revision import later_tidemill

from tidemill.core.errors import ConflictError, InvalidError, RefusedError
from tidemill.ledger import migrate, opening, schema
from tidemill.ledger.store import Ledger, emit


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def _tables(url: str) -> set[tuple[str, str]]:
    path = opening.sqlite_path(url)
    with sqlite3.connect(str(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    db.close()
    return {(name, "".join(sql.replace('"', "").split()).lower()) for name, sql in rows}


def test_a_new_ledger_equals_a_migrated_one(tmp_path: Path) -> None:
    """If this fails you changed schema.py: write a revision with `migrate.write_revision` and set `opening.HEAD`."""
    new, migrated = f"sqlite:///{tmp_path}/new.db", f"sqlite:///{tmp_path}/migrated.db"
    Ledger(new).close()
    migrate.upgrade(migrated)
    assert _tables(new) == _tables(migrated)
    assert migrate.check(new) == migrate.Check(new, opening.HEAD, opening.HEAD, "current")
    Ledger(migrated).close()


def test_an_older_ledger_is_refused_then_upgraded_with_a_copy_kept(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url)
    with ledger.write() as db:
        emit(db, "kept", "x", {}, at_us=1)
    ledger.close()
    first = opening.HEAD
    with later_tidemill(tmp_path / "migrations"):
        with pytest.raises(ConflictError, match="tidemill ledger upgrade"):
            Ledger(url)
        assert migrate.check(url).state == "older"
        assert migrate.check(url).differences == ("add_table extra",)
        assert migrate.upgrade(url) == first
        assert migrate.check(url).state == "current"
        assert [event.kind for event in Ledger(url).events_after(0)] == ["kept"]
        assert migrate.check(f"{url}.{first}.bak").state == "older"


def test_a_newer_ledger_is_refused(url: str) -> None:
    ledger = Ledger(url)
    with ledger.write() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = 'from the future'")
    ledger.close()
    assert migrate.check(url).state == "unknown"
    for refused in (migrate.upgrade, Ledger):
        with pytest.raises(ConflictError, match="install a newer Tidemill"):
            refused(url)


def test_differences_are_named(url: str) -> None:
    ledger = Ledger(url)
    with ledger.write() as db:
        db.exec_driver_sql("DROP TABLE token")
    ledger.close()
    assert migrate.check(url).differences == ("add_table token",)


def test_a_ledger_without_a_version_is_refused(url: str) -> None:
    with sqlite3.connect(str(opening.sqlite_path(url))) as raw:
        raw.execute("CREATE TABLE event (seq INTEGER)")
    raw.close()
    with pytest.raises(ConflictError, match="start with a new one"):
        Ledger(url)


def test_places_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="memory"):
        Ledger("sqlite://")
    with pytest.raises(InvalidError, match="no folder"):
        Ledger(f"sqlite:///{tmp_path}/nowhere/ledger.db")


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040share nfs4 rw 0 0\ntmpfs {tmp_path}/my\\040share/fast tmpfs rw 0 0\n"
    )
    (tmp_path / "my share" / "fast").mkdir(parents=True)
    assert opening.file_system(tmp_path / "my share", mounts) == "nfs4"
    assert opening.file_system(tmp_path / "my share" / "fast", mounts) == "tmpfs"
    assert opening.file_system(tmp_path, mounts) == "ext4"
    assert opening.file_system(tmp_path, tmp_path / "no such file") == ""
    monkeypatch.setattr(opening, "file_system", lambda _folder: "nfs4")
    with pytest.raises(RefusedError, match="network file system"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_many_may_open_a_new_ledger_at_once(url: str) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Ledger(url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


@pytest.mark.parametrize("name", ["postgresql", "mysql"])
def test_tables_can_be_made_elsewhere(name: str) -> None:
    dialects: dict[str, Any] = {"postgresql": postgresql.dialect, "mysql": mysql.dialect}
    dialect = dialects[name]()
    text = "".join(str(sa.schema.CreateTable(table).compile(dialect=dialect)) for table in schema.metadata.sorted_tables)
    assert text.count("CREATE TABLE") == len(schema.metadata.tables)
    assert "WITHOUT ROWID" not in text

"""Ledgers on real database servers keep the same promises, and what only servers do to one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.support import database_servers
from tests.support.database_servers import Server
from tests.support.ledger_revision import later_tidemill

from tidemill.core.errors import ConfigError, ConflictError, UnavailableError
from tidemill.ledger import migrate, opening, schema
from tidemill.ledger.store import Ledger, emit, upsert
from tidemill.testing.ledger import LedgerContract

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("databases")]
PASSWORD = "o'pen /?%:sesame"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with database_servers.postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def mysql() -> Iterator[Server]:
    with database_servers.mysql() as server:
        yield server


class TestPostgresqlLedger(LedgerContract):
    @pytest.fixture
    def url(self, postgresql: Server) -> str:
        return postgresql.new_database()

    @pytest.fixture
    def away(self, postgresql: Server) -> Callable[[str], AbstractContextManager[None]]:
        return lambda _url: _stopped(postgresql)


class TestMysqlLedger(LedgerContract):
    @pytest.fixture
    def url(self, mysql: Server) -> str:
        return mysql.new_database()

    @pytest.fixture
    def away(self, mysql: Server) -> Callable[[str], AbstractContextManager[None]]:
        return lambda _url: _stopped(mysql)


@contextmanager
def _stopped(server: Server) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def _emit(ledger: Ledger, kind: str) -> None:
    with ledger.write() as db:
        emit(db, kind, "x", {}, at_us=1)


def _kinds(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.events_after(0)]


def test_a_new_ledger_equals_a_migrated_one(server: Server) -> None:
    new, migrated = server.new_database(), server.new_database()
    Ledger(new).close()
    assert migrate.upgrade(migrated) is None
    for url in (new, migrated):
        assert migrate.check(url) == migrate.Check(url, opening.HEAD, opening.HEAD, "current")
    assert migrate.upgrade(new) == opening.HEAD
    Ledger(migrated).close()


def test_an_older_ledger_is_refused_then_upgraded(server: Server, tmp_path: Path) -> None:
    url = server.new_database()
    ledger = Ledger(url)
    _emit(ledger, "kept")
    ledger.close()
    with later_tidemill(tmp_path / "migrations"):
        with pytest.raises(ConflictError, match="tidemill ledger upgrade"):
            Ledger(url)
        assert migrate.check(url).differences == ("add_table extra",)
        assert migrate.upgrade(url) == opening.HEAD or migrate.check(url).state == "current"
        ledger = Ledger(url)
        assert _kinds(ledger) == ["kept"]
        ledger.close()
    with pytest.raises(ConflictError, match="install a newer Tidemill"):
        Ledger(url)


def test_tables_of_somebody_who_was_killed_while_making_them_are_completed(mysql: Server) -> None:
    url = mysql.new_database()
    ledger = Ledger(url)
    with ledger.write() as db:
        db.exec_driver_sql("DROP TABLE alembic_version")
        db.exec_driver_sql("DROP TABLE trial")
    ledger.close()
    again = Ledger(url)
    _emit(again, "on")
    assert migrate.check(url).differences == ()


def test_a_crashed_server_loses_nothing_and_the_ledger_goes_on(server: Server) -> None:
    url = server.new_database()
    ledger = Ledger(url)
    for number in range(20):
        _emit(ledger, f"kind-{number}")
    server.kill()
    with pytest.raises(UnavailableError, match="is the server running"):
        _emit(ledger, "nobody there")
    with pytest.raises(UnavailableError, match="is the server running"):
        Ledger(url)
    server.start()
    _emit(ledger, "on")
    assert _kinds(ledger) == [*(f"kind-{number}" for number in range(20)), "on"]


def test_a_password_is_read_from_where_the_url_says_and_shown_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    literal = PASSWORD.replace("'", "''")
    if server.scheme == "postgresql":
        statements = [f"CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '{literal}'"]
    else:
        statements = [f"CREATE USER keeper@'127.0.0.1' IDENTIFIED BY '{literal}'", "GRANT ALL ON *.* TO keeper@'127.0.0.1'"]
    server.run(*statements)
    monkeypatch.setenv("LEDGER_PASSWORD", PASSWORD)
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    base = server.new_database().replace("postgres@", "keeper:REF@").replace("tester@", "keeper:REF@")
    for reference in ("env:LEDGER_PASSWORD", f"file:{tmp_path}/secret"):
        ledger = Ledger(base.replace("REF", reference))
        _emit(ledger, reference)
        ledger.close()
    assert _kinds(Ledger(base.replace("REF", "env:LEDGER_PASSWORD"))) == ["env:LEDGER_PASSWORD", f"file:{tmp_path}/secret"]
    with pytest.raises(ConfigError, match="env:NAME"):
        Ledger(base.replace("REF", "sesame"))
    if server.scheme == "mysql":  # PostgreSQL trusts the loopback here
        monkeypatch.setenv("LEDGER_PASSWORD", "wrong sesame")
        with pytest.raises(UnavailableError, match="user, password and database") as caught:
            Ledger(base.replace("REF", "env:LEDGER_PASSWORD"))
        assert "sesame" not in str(caught.value)


def test_names_that_look_alike_are_different_and_long_texts_whole(server: Server) -> None:
    ledger = Ledger(server.new_database())
    names = ["loss", "Loss", "löss", "loß"]
    ledger.log_metrics("run", [(name, 0, float(i)) for i, name in enumerate(names)], at_us=1)
    ledger.log_params("run", {"long": "ü" * 200_000, "odd": "a\\'\"%s%%\n\t😀"})
    with ledger.write() as db:
        upsert(db, schema.profile, {"subject": "t", "from_us": 0, "until_us": 1, "rows": 1, "body": bytes(range(256)) * 1000, "at_us": 1})
    with ledger.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(schema.metric_last)).scalar() == 4
        params = dict(map(tuple, db.execute(sa.select(schema.param.c.name, schema.param.c.value))))
        assert params == {"long": "ü" * 200_000, "odd": "a\\'\"%s%%\n\t😀"}
        assert db.execute(sa.select(schema.profile.c.body)).scalar() == bytes(range(256)) * 1000


def _tidemill(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tidemill.cli", *args], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"tidemill {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert "sesame" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_whole_project_lives_on_it(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_PASSWORD", "sesame")  # both servers let these users in without looking at it
    project = tmp_path / "kitchen"
    _tidemill("init", str(project))
    where, rest = server.new_database().replace("tester@", "root@").split("@")
    if server.scheme == "postgresql":
        where += ":env:LEDGER_PASSWORD"
    (project / "conf" / "stack").mkdir(exist_ok=True)
    (project / "conf" / "stack" / "team.yaml").write_text(f"defaults: [local]\nname: team\nledger: {where}@{rest}\n")
    given = ("--project", str(project), "-o", "stack=team")
    report = json.loads(_tidemill("replay", *given, "--from", "2024-01-22", "--to", "2024-02-12", "--policy", "on-drift,never", "--json"))
    assert {p["name"]: p["trainings"] >= 1 for p in report["policies"]} == {"on-drift": True, "never": True}
    facts = json.loads(_tidemill("ledger", *given, "--json"))
    assert facts["url"].startswith(f"{server.scheme}://")
    assert facts["run"] >= 1
    assert not (project / ".tidemill" / "ledger.db").exists()
    checks = {check["name"]: check for check in json.loads(_tidemill("doctor", *given, "--json"))}
    assert (checks["ledger"]["state"], checks["stack"]["state"]) == ("ok", "ok")
    assert server.scheme in checks["ledger"]["text"]
    assert "up to date" in _tidemill("ledger", *given, "upgrade")
    for listing in ("ledger events", "ingest list", "validate", "features", "runs", "models", "rollout", "labels", "monitor", "decisions"):
        first, *more = listing.split()
        assert json.loads(_tidemill(first, *given, *more, "--json")), listing
    last = json.loads(_tidemill("predict", *given, "list", "--limit", "1", "--json"))[0]
    assert json.loads(_tidemill("why", *given, last["id"], "--json"))["run"]["cause"]["kind"]

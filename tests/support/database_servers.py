"""Real PostgreSQL and MariaDB servers on free loopback ports, as users that are not root, in folders of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from tests.support.live import program
from tests.support.serving_kit import free_port


class Server:
    """A running server. `root_url` is the administrator's; `restart` kills it -9 and starts it again."""

    def __init__(self, scheme: str, command: Sequence[str], folder: Path, user: str | None, port: int, administrator: str) -> None:
        self.scheme, self.port = scheme, port
        self._command, self._folder, self._user = command, folder, user
        driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[scheme]
        first = {"postgresql": "postgres", "mysql": "mysql"}[scheme]
        self.root_url = f"{driver}://{administrator}@127.0.0.1:{port}/{first}"
        self._numbers = count()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        for _ in range(600):
            try:
                self.run("SELECT 1")
            except sa.exc.OperationalError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError((self._folder / "log").read_text())

    def restart(self) -> None:
        """As after a crash."""
        self.kill()
        self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, *statements: str) -> None:
        """Execute statements as the administrator."""
        engine = sa.create_engine(self.root_url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as db:
                for statement in statements:
                    db.execute(sa.text(statement.replace(":", "\\:")))
        finally:
            engine.dispose()

    def new_database(self) -> str:
        """URL of a new, empty database."""
        name = f"ledger_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return f"{self.scheme}://{'postgres' if self.scheme == 'postgresql' else 'tester'}@127.0.0.1:{self.port}/{name}"


@contextmanager
def _folder(user: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tidemill-db-"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server that trusts the loopback."""
    postgres, initdb = (program("postgresql", name, package="postgresql") for name in ("postgres", "initdb"))
    user = "postgres" if os.getuid() == 0 else None
    with _folder(user) as folder:
        made = [initdb, "-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd=folder)
        port = free_port()
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=200"]
        yield from _running(
            Server("postgresql", [postgres, "-D", str(folder / "data"), "-p", str(port), *settings], folder, user, port, "postgres")
        )


@contextmanager
def mysql() -> Iterator[Server]:
    """A MariaDB server with a user without a password."""
    mariadbd = program("mysql", "mariadbd", "mysqld", package="mariadb-server")
    install = program("mysql", "mariadb-install-db", "mysql_install_db", package="mariadb-server")
    user = "mysql" if os.getuid() == 0 else None
    with _folder(user) as folder:
        made = [install, "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd=folder)
        port = free_port()
        where = [
            f"--datadir={folder}/data",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder}/s",
            f"--pid-file={folder}/pid",
        ]
        server = Server("mysql", [mariadbd, "--no-defaults", *where, "--max-connections=400"], folder, user, port, "root")
        for running in _running(server):
            running.run("CREATE USER tester@'%'", "GRANT ALL ON *.* TO tester@'%' WITH GRANT OPTION")
            yield running


def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()

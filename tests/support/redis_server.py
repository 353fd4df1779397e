"""A real redis-server on a free loopback port, for tests that start, kill and start it again."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.serving_kit import free_port


class Server:
    """One server with its folder. `aof`: an append-only file, so that what was written survives `kill`."""

    def __init__(self, folder: Path, *, aof: bool = False, options: tuple[str, ...] = ()) -> None:
        self.folder, self.port, self._options = folder, free_port(), options
        self._aof = aof
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Patient, as the machine may be busy."""
        return f"redis://127.0.0.1:{self.port}/0?timeout=20s"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            if "redis" in os.environ.get("TIDEMILL_LIVE", ""):
                pytest.fail("TIDEMILL_LIVE names redis, and there is no redis-server")
            pytest.skip("needs redis-server")
        self.folder.mkdir(exist_ok=True, parents=True)
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        where += ["--appendonly", "yes" if self._aof else "no", "--appendfsync", "everysec", *self._options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([program, *where], stdout=log, stderr=log)
        with redis.Redis(port=self.port) as client:
            for _ in range(400):
                try:
                    client.ping()
                except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                    time.sleep(0.02)
                else:
                    return
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections stay, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)


@contextmanager
def redis_server(folder: Path, *, aof: bool = False, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """A running server, killed at the end."""
    server = Server(folder, aof=aof, options=options)
    server.start()
    try:
        yield server
    finally:
        server.kill()

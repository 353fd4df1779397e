"""A Docker engine of its own: its data, socket and containerd namespace in a temporary folder, without a bridge or a rule in the firewall.

`python -m tests.support.docker_engine` says by its exit code whether one can be had here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.live import program
from tests.support.venvs import CACHE

SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Debian releases by their Python."""
_START_S, _PULL_S = 60, 120


def lacking(text: str) -> NoReturn:
    """Skip, or fail when TIDEMILL_LIVE names docker."""
    (pytest.fail if "docker" in os.environ.get("TIDEMILL_LIVE", "").split() else pytest.skip)(f"docker: {text}")


class Engine:
    """A running engine. Containers have the host's network or none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._dockerd = program("docker", "dockerd", package="docker.io")
        self._docker = program("docker", "docker", package="docker.io (or docker-cli)")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        if os.getuid() != 0:
            lacking("an engine is started by root")
        name = f"tidemill-{os.getpid()}"
        where = ["--data-root", "data", "--exec-root", "exec", "--host", f"unix://{self.folder}/s", "--pidfile", "pid"]
        where = [w if w.startswith(("-", "unix:")) else str(self.folder / w) for w in where]
        apart = ["--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins", "--storage-driver", "overlay2"]
        network = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._dockerd, *where, *apart, *network], stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + _START_S
        while self.run("version", ok=None).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                lacking(f"the engine does not start: {(self.folder / 'log').read_text()[-600:]}")
            time.sleep(0.2)

    def run(self, *words: str, ok: int | None = 0, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """`docker WORDS`, whose exit code must be `ok`."""
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/s", "DOCKER_CONFIG": str(self.folder / "config")}
        done = subprocess.run([self._docker, *words], env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)
        assert ok is None or done.returncode == ok, (
            f"docker {' '.join(words)}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr}"
        )
        return done

    def out(self, *words: str) -> str:
        return self.run(*words).stdout.strip()

    def stop(self) -> None:
        """End all containers, the engine, and whatever else of it is left."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            if self._process.poll() is None and (names := self.run("ps", "-aq", ok=None, timeout_s=60).stdout.split()):
                self.run("rm", "-f", "-v", *names, ok=None, timeout_s=120)
            self._process.terminate()
            self._process.wait(60)
        for pid in [*self._pids(), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _pids(self) -> list[int]:
        """Processes that were started with this folder in their command: containerd and its shims."""
        wanted, found = os.fsencode(self.folder), []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if wanted in path.read_bytes() and int(path.parent.name) != os.getpid():
                    found.append(int(path.parent.name))
        return found


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """A running engine; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-docker-"))
    engine = None
    try:
        engine = Engine(folder)
        engine.start()
        yield engine
    finally:
        if engine is not None:
            engine.stop()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if (at := line.split()[1]).startswith(f"{folder}/"):
                subprocess.run(["umount", at], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


WANTED = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""The base image of what `tidemill build` writes here."""


def base_image(engine: Engine, wanted: str = WANTED) -> tuple[str, str]:
    """The image `wanted` and the network that a build on it needs (for OpenMP's runtime); where it cannot be pulled, a Debian with the same Python."""
    with suppress(subprocess.TimeoutExpired):
        if engine.run("pull", wanted, ok=None, timeout_s=_PULL_S).returncode == 0:
            return wanted, "host"
    engine.run("import", str(_debian()), "tidemill-base:1")
    return "tidemill-base:1", "none"


def _debian() -> Path:
    """A root file system with Python, its `venv` and OpenMP's runtime: made once, kept outside of the checkout."""
    version = sys.version_info[:2]
    if version not in SUITES:
        lacking(f"no base image can be pulled, and no Debian has Python {version[0]}.{version[1]}")
    kept = CACHE.parent / "images" / f"{SUITES[version]}.tar"
    if kept.exists():
        return kept
    debootstrap = program("docker", "debootstrap", package="debootstrap")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidemill-base-", ignore_cleanup_errors=True) as root:
        made = subprocess.run(
            [debootstrap, "--variant=minbase", "--include=python3,python3-venv,libgomp1", SUITES[version], root],
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        if made.returncode != 0:
            lacking(f"no base image can be pulled, nor made: {made.stdout[-300:]}{made.stderr[-300:]}")
        part = kept.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", str(part), "."], check=True)
        part.rename(kept)
    return kept


if __name__ == "__main__":  # whether there can be an engine with a base image on this machine: it is said by the exit code
    with docker_engine() as found:
        base_image(found)

"""Keeping a few child processes alive: start, watch, start again with growing pauses, drain.

Each child reads its standard input and stops when that ends, so children never outlive a supervisor that was killed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Any

from tidemill.core.errors import ConflictError, UnavailableError
from tidemill.platform.lock import alone

FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S, DRAIN_S, LOG_BYTES = 0.5, 30.0, 60.0, 20.0, 10_000_000
Address = tuple[str, int]


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock. Raises `ConflictError` when another `tidemill up` has it."""
    with alone(home / "up.lock") as mine:
        if not mine:
            raise ConflictError(f"another `tidemill up` already runs on {home}; stop it first, or use another home with -o home=…")
        yield


def check_ports(addresses: Mapping[str, Address]) -> None:
    """Raise `UnavailableError` when a port is taken."""
    options = {"api": "--port", "server": "--serving-port", "grpc": "-o serving.grpc_port=…"}
    for name, (host, port) in addresses.items():
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
                raise UnavailableError(f"port {port} on {host} is in use; choose another with {options[name]}") from error


@dataclass(slots=True)
class Child:
    """One supervised process. `due` is when to start it (again), on the monotonic clock."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE_S
    restarts: int = 0


@dataclass(slots=True)
class Supervisor:
    """Runs the named processes of `tidemill.cli.processes` until it is told to stop."""

    names: Sequence[str]
    project: Path
    overrides: Sequence[str]
    logs: Path
    addresses: Mapping[str, Address] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _text: None
    module: str = "tidemill.cli.processes"
    stopping: threading.Event = field(default_factory=threading.Event)
    children: list[Child] = field(default_factory=list)

    def run(self) -> int:
        """Start all, watch them, and return after a signal once they have drained; 0 when every one ended by itself in time."""
        before = {s: signal.signal(s, lambda *_: self.stopping.set()) for s in (signal.SIGINT, signal.SIGTERM)}
        self.logs.mkdir(parents=True, exist_ok=True)
        self.children = [Child(name) for name in self.names]
        announced = False
        try:
            while not self.stopping.is_set():
                for child in self.children:
                    self._look_after(child)
                if not announced and all(_answers(a) for a in self.addresses.values()):
                    announced = True
                    self.say("ready; Ctrl-C stops it")
                self.stopping.wait(0.2)
            self.say("stopping: requests under way may finish …")
            return self._drain()
        finally:
            self._drain()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look_after(self, child: Child) -> None:
        now = monotonic()
        if child.process is None:
            if now >= child.due:
                child.process, child.started = self._start(child.name), now
            return
        code = child.process.poll()
        if code is None:
            return
        if now - child.started > HEALTHY_S:
            child.pause = FIRST_PAUSE_S
        self.say(f"{child.name} ended with {_ending(code)}; starting it again in {child.pause:g} s (see {self.logs / child.name}.log)")
        _close(child.process)
        child.process, child.due, child.restarts = None, now + child.pause, child.restarts + 1
        child.pause = min(LONGEST_PAUSE_S, child.pause * 2)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        options = [part for o in self.overrides for part in ("-o", o)]
        with _log(self.logs / f"{name}.log") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.module, name, "--supervised", "--project", str(self.project), *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,  # not a session of its own: Linux shares out processors by sessions first, and niceness counts within one
            )

    def _drain(self) -> int:
        alive = [c.process for c in self.children if c.process is not None]
        for process in alive:
            if process.poll() is None:
                process.terminate()
        late = 0
        until = monotonic() + DRAIN_S
        for process in alive:
            try:
                process.wait(max(0.1, until - monotonic()))
            except subprocess.TimeoutExpired:
                late += 1
                _kill(process)
            _close(process)
        self.children = []
        return 1 if late else 0


def _log(path: Path) -> IO[Any]:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection(address, timeout=0.2):
            return True
    except OSError:
        return False

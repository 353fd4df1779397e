"""Requests at a constant rate, whatever the server does: each is due at a moment fixed beforehand, and its latency counts from there.

    echo PLAN | python benchmarks/openloop.py

A client that sends its next request when the last one is answered (`wrk`) asks a slow server less often and so does not see how slow it is
(coordinated omission). This one does not wait: a request that finds no free connection stays in line, and the wait is part of its latency.

One process, one thread, nonblocking sockets, one request at a time on each connection, requests encoded beforehand, moments kept by `select`
in microseconds. Every answer of 200 is decoded and its values compared with the model's. How late it was itself is reported as `late_us` (from
the moment due to the moment sent, where a connection was free), so that a run in which the client was the slow one can be told.

A plan, on standard input as JSON: `host`, `port`, `path`, `token`, `connections`, `bodies` (files), `expected` (by body, by model version: values),
`phases` (list of seconds and rate), `out` (a NumPy file to write: phase, due, latency, status and lateness of each request, seconds). A status of 0:
no answer; of 1: a wrong one.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from select import select
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

LOST, WRONG = 0, 1
_SLACK_S, _DRAIN_S, _TOLERANCE = 0.0002, 10.0, 1e-5


@dataclass(frozen=True)
class Plan:
    """What to ask, how fast, and what the answers must be."""

    port: int
    path: str
    token: str
    connections: int
    bodies: Sequence[str]
    expected: Sequence[Mapping[str, Sequence[float]]]
    phases: Sequence[tuple[float, float]]
    out: str = ""
    host: str = "127.0.0.1"


class _Output(msgspec.Struct):
    data: list[Any]  # the second output says who answered, in text


class _Answer(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class _Connection:
    """A socket with at most one request under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.number = -1
        self.body = 0
        self.read = b""
        self.socket = self._open()

    def _open(self) -> socket.socket:
        opened = socket.create_connection((self.plan.host, self.plan.port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        return opened

    def again(self) -> None:
        """Connect anew: the server has closed this one."""
        self.socket.close()
        self.number, self.read = -1, b""
        self.socket = self._open()


class Client:
    """Runs a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = [_encoded(plan, Path(body).read_bytes()) for body in plan.bodies]
        self.decode = msgspec.json.Decoder(_Answer).decode
        due, phase, start = [], [], 0.0
        for i, (seconds, rate) in enumerate(plan.phases):
            n = round(seconds * rate)
            due.append(start + np.arange(n) / rate)
            phase.append(np.full(n, i))
            start += seconds
        self.due = np.concatenate(due)
        self.phase = np.concatenate(phase)
        self.latency = np.full(len(self.due), np.nan)
        self.status = np.zeros(len(self.due), dtype=np.int64)
        self.late = np.full(len(self.due), np.nan)
        self.began = 0.0

    def run(self) -> None:
        """Send every request when it is due, and wait for the last answers."""
        selector = selectors.EpollSelector()
        connections = [_Connection(self.plan) for _ in range(self.plan.connections)]
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        free, line = deque(connections), deque[int]()
        due, at, n = self.due.tolist(), 0, len(self.due)
        self.began = perf_counter() + 0.05
        until = self.began + (due[-1] if due else 0) + _DRAIN_S
        while (now := perf_counter()) < until and (at < n or len(free) < len(connections) or line):
            while at < n and due[at] <= now - self.began:
                if free and not line:
                    self.late[at] = now - self.began - due[at]
                    self._send(free.popleft(), at, selector, free)
                else:
                    line.append(at)
                at += 1
            wait = due[at] - (perf_counter() - self.began) if at < n else 0.05
            ready, _, _ = select([selector.fileno()], [], [], max(0.0, min(wait, 0.05)))
            if not ready:
                continue
            for key, _events in selector.select(0):
                self._receive(key.data, selector, free)
                while line and free:
                    self._send(free.popleft(), line.popleft(), selector, free)
        for connection in connections:
            connection.socket.close()

    def _send(self, connection: _Connection, number: int, selector: selectors.EpollSelector, free: deque[_Connection]) -> None:
        connection.number, connection.body = number, number % len(self.requests)
        data = self.requests[connection.body]
        try:
            sent = connection.socket.send(data)
            if sent < len(data):  # larger than the socket's buffer: rare, and short on the loopback
                connection.socket.setblocking(True)
                connection.socket.sendall(data[sent:])
                connection.socket.setblocking(False)
        except OSError:
            self._broken(connection, selector, free)

    def _receive(self, connection: _Connection, selector: selectors.EpollSelector, free: deque[_Connection]) -> None:
        try:
            piece = connection.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._broken(connection, selector, free)
            return
        connection.read += piece
        head = connection.read.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = connection.read[:head].lower()
        place = lower.find(b"content-length:")
        length = int(lower[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(connection.read) < head + 4 + length:
            return
        number = connection.number
        self.latency[number] = perf_counter() - self.began - self.due[number]
        self.status[number] = self._judge(int(lower[9:12]), connection.read[head + 4 :], connection.body)
        connection.number, connection.read = -1, b""
        if b"connection: close" in lower:
            self._renew(connection, selector)
        free.append(connection)

    def _judge(self, status: int, body: bytes, asked: int) -> int:
        if status != 200:
            return status
        try:
            answer = self.decode(body)
            wanted = self.plan.expected[asked][answer.model_version]
            got = answer.outputs[0].data
        except (msgspec.MsgspecError, KeyError, IndexError):
            return WRONG
        right = len(got) == len(wanted) and all(abs(a - b) <= _TOLERANCE for a, b in zip(got, wanted, strict=True))
        return 200 if right else WRONG

    def _broken(self, connection: _Connection, selector: selectors.EpollSelector, free: deque[_Connection]) -> None:
        if connection.number >= 0:
            self.latency[connection.number] = perf_counter() - self.began - self.due[connection.number]
            self.status[connection.number] = LOST
            free.append(connection)
        self._renew(connection, selector)

    @staticmethod
    def _renew(connection: _Connection, selector: selectors.EpollSelector) -> None:
        selector.unregister(connection.socket)
        connection.again()
        selector.register(connection.socket, selectors.EVENT_READ, connection)


def _encoded(plan: Plan, body: bytes) -> bytes:
    head = (
        f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAuthorization: Bearer {plan.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True)
class Seen:
    """What became of each request, in seconds from the first one's moment."""

    phase: npt.NDArray[np.int64]
    due: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    late: npt.NDArray[np.float64]

    def of(self, phase: int) -> Seen:
        """The requests of one phase."""
        mine = self.phase == phase
        return Seen(self.phase[mine], self.due[mine], self.latency[mine], self.status[mine], self.late[mine])

    @property
    def failed(self) -> int:
        """Requests without the right answer."""
        return int((self.status != 200).sum())

    def ms(self, percent: float, status: Sequence[int] = (200,)) -> float:
        """A percentile of the latencies of answers with one of these statuses, in milliseconds."""
        found = self.latency[np.isin(self.status, status)]
        return float(np.percentile(found, percent)) * 1e3 if len(found) else float("nan")

    @property
    def late_us(self) -> float:
        """How late the client itself was at 99 of 100 requests at most."""
        found = self.late[~np.isnan(self.late)]
        return float(np.percentile(found, 99)) * 1e6 if len(found) else 0.0

    def failures(self) -> dict[str, int]:
        """How many of each status, apart from right answers."""
        kinds, counts = np.unique(self.status[self.status != 200], return_counts=True)
        names = {LOST: "no answer", WRONG: "wrong answer"}
        return {names.get(int(kind), str(int(kind))): int(n) for kind, n in zip(kinds, counts, strict=True)}


def ask(plan: Plan) -> Seen:
    """Run a plan in a process of its own and return what it saw. Raises `RuntimeError` when it fails."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())], input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr[-1000:]}")
    found = np.load(plan.out)
    return Seen(found["phase"], found["due"], found["latency"], found["status"], found["late"])


def main() -> None:
    plan: Any = Plan(**json.load(sys.stdin))
    client = Client(plan)
    client.run()
    np.savez(plan.out, phase=client.phase, due=client.due, latency=client.latency, status=client.status, late=client.late)


if __name__ == "__main__":
    main()

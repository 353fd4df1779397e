"""Granian's server, with a certificate that can be another one from one connection to the next.

Granian reads a certificate when a worker starts. So a second worker is started beside the first, in the same process and on the same listening
socket: no model is loaded twice, and who waits in the socket's queue stays there. Then the first worker is led away from the socket, by putting a
socket that nobody can reach in the place of its descriptor. It finishes the handshakes and requests that it has, asks its clients to close their
connections, and ends; stopping it at once would reset connections whose handshake or first request is on its way.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import granian._granian
import granian.server.embed
from granian.constants import Interfaces

from tidemill.core.errors import ConfigError, UnavailableError
from tidemill.serving.cors import Told
from tidemill.serving.tls import Tls

_CLOSE = [("connection", "close")]
_Server: Any = granian.server.embed.Server
_holder: Any = granian._granian.SocketHolder


class RenewableServer(_Server):  # type: ignore[misc]
    """A server with TLS, for RSGI or for ASGI without lifespan.

    `retire_s`: how long the worker before keeps its connections, each until its next answer; a handshake and its first request end in that time.
    """

    ssl_ctx: tuple[Any, ...]

    def __init__(self, app: Any, tls: Tls, *, address: str, port: int, retire_s: float = 30.0, **more: Any) -> None:
        super().__init__(app, address=address, port=port, **more, **tls.granian())
        self._retire_s = retire_s
        self._given = -1
        self._front: _Front | None = None
        self._spawned: tuple[Any, Any] = (None, None)
        self._retired: dict[Any, asyncio.Task[None]] = {}
        self._listens = _listen(address, port, self.backlog)

    async def take_over(self, tls: Tls) -> None:
        """Show this certificate to each new connection from now on. Its files are not read again. Raises `ConfigError`."""
        kept = self.ssl_ctx
        before, given, front = self.wrks[0], self._given, self._front
        self.ssl_ctx = (True, str(tls.cert), str(tls.key), *kept[3:])
        self._init_shared_socket()
        new = self._spawn_worker(0, *self._spawned)
        for _ in range(3):  # it begins with the loop's next turn, and reads the certificate at once
            await asyncio.sleep(0)
        if new._task.done():
            self.ssl_ctx, self._given, self._front = kept, given, front
            raise ConfigError(f"the server cannot begin with the new certificate ({new._task.exception()})")
        new.start()
        self.wrks[0] = new
        with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(f"{folder}/deaf")  # and removed with the folder, so nobody can ever ask to be taken
            deaf.listen(1)
            deaf.setblocking(False)
            os.dup2(deaf.fileno(), given, inheritable=False)
        assert front is not None
        front.closing = True
        self._retired[before] = asyncio.create_task(self._retire(before))

    async def _retire(self, worker: Any) -> None:
        await asyncio.sleep(self._retire_s)
        worker.terminate()
        await asyncio.wait({worker._task})
        del self._retired[worker]

    # what Granian calls

    def _init_shared_socket(self) -> None:
        self._given = os.dup(self._listens.fileno())  # the worker closes it
        self._ssp, self._shd = None, _holder(self._given, False, self.backlog)

    def _spawn_workers(self, spawn_target: Any, target_loader: Any) -> None:
        self._spawned = spawn_target, target_loader
        super()._spawn_workers(spawn_target, target_loader)

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:
        kind = _RsgiFront if self.interface == Interfaces.RSGI else _AsgiFront
        self._front = kind(callback_loader, first=self._front is None)
        return super()._spawn_worker(idx, target, self._front)

    async def _stop_workers(self) -> None:
        for worker, task in self._retired.items():
            task.cancel()
            if not worker.interrupt_by_parent:
                worker.terminate()
        await super()._stop_workers()
        if self._retired:
            await asyncio.wait({worker._task for worker in self._retired})
        self._listens.close()


class _Front:
    """Stands before the application for one worker; `closing`: each answer asks the client to connect anew."""

    def __init__(self, app: Any, *, first: bool) -> None:
        self._app, self.closing = app, False
        if first and hasattr(app, "__rsgi_init__"):
            self.__rsgi_init__ = app.__rsgi_init__
            self.__rsgi_del__ = app.__rsgi_del__


class _RsgiFront(_Front):
    def __rsgi__(self, scope: Any, http: Any) -> Awaitable[None]:
        # not a coroutine of its own: a request takes no step more. HTTP/2 has a way of its own to close (GOAWAY), and forbids this header
        answering: Awaitable[None] = self._app.__rsgi__(scope, Told(http, _CLOSE) if self.closing and scope.http_version != "2" else http)
        return answering


class _AsgiFront(_Front):
    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        closes = self.closing and scope["type"] == "http" and scope["http_version"] != "2"
        answering: Awaitable[None] = self._app(scope, receive, _closing(send) if closes else send)
        return answering


def _closing(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return sent


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # by the processes of a server
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        made.bind((host, port))
        made.listen(backlog)
    except OSError as error:
        made.close()
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return made


def prove(tls: Tls) -> None:
    """Begin a server with a certificate, on a port that nobody is told, and end the process, with 0 when it began. What Granian cannot use ends it too."""

    async def begin() -> None:
        server = RenewableServer(_nobody, tls, address="127.0.0.1", port=0, interface=Interfaces.ASGINL, log_enabled=False)
        serving = asyncio.create_task(server.serve())
        for ended in (await asyncio.wait({serving}, timeout=0.1))[0]:
            ended.result()
        if not server.wrks or server.wrks[0]._task.done():
            raise ConfigError("the server did not begin")
        os._exit(0)  # not by a stop, which may be lost on a server that has just begun

    asyncio.run(begin())


async def _nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    """Answers nothing: nobody asks."""


if __name__ == "__main__":
    import sys

    prove(Tls(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read() or None))

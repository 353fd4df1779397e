"""The gRPC server beside the model server's HTTP, in the same event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Any

from tidemill.adapters.grpc import frames
from tidemill.adapters.grpc.connection import Connection, Stream
from tidemill.adapters.grpc.messages import SERVICE
from tidemill.adapters.grpc.service import DEADLINE_EXCEEDED, UNIMPLEMENTED, Answer, InferenceService, status_of
from tidemill.core.errors import UnavailableError
from tidemill.serving.server import ModelServer
from tidemill.serving.tls import Tls

logger = logging.getLogger(__name__)
_STEP_S, _HANDSHAKE_S = 0.01, 10.0


class GrpcServer:
    """Listens until it is stopped. Calls in flight finish; those that come after the stop are refused, which a client may repeat elsewhere."""

    def __init__(self, app: ModelServer, host: str, port: int) -> None:
        self._app, self._host = app, host
        self.port = port
        service = InferenceService(app)
        self._methods = {f"/{SERVICE}/{name}": answer for name, answer in service.methods.items()}
        self._infer, self._infer_path = service.infer, f"/{SERVICE}/ModelInfer"
        self._connections: set[Connection] = set()
        self._loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._tls: ssl.SSLContext | None = None

    async def start(self) -> None:
        """Listen. Raises `UnavailableError` when the port is taken."""
        self._loop = asyncio.get_running_loop()
        limit = self._app.settings.max_body_bytes
        tls = self._tls = None if self._app.settings.tls is None else self._app.settings.tls.context()
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        shared = hasattr(socket, "SO_REUSEPORT")  # by the processes of a server
        try:
            self._server = await self._loop.create_server(
                lambda: Connection(self._begin, self._connections, self._loop, limit),
                self._host,
                self.port,
                reuse_port=shared or None,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else _HANDSHAKE_S,
            )
        except OSError as error:
            told = f"cannot listen for gRPC on {self._host}:{self.port}: {error.strerror or error}; choose another serving.grpc_port"
            raise UnavailableError(told) from error
        self.port = self._server.sockets[0].getsockname()[1]
        logger.info("grpc.started", extra={"port": self.port})

    async def stop(self) -> None:
        """Take no more calls and let those in flight finish."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.drain()
        for _ in range(int(self._app.settings.drain_s / _STEP_S)):
            if not any(connection.streams for connection in self._connections):
                break
            await asyncio.sleep(_STEP_S)
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(_STEP_S)

    async def take_over(self, tls: Tls) -> None:
        """Show this certificate to each new connection; those that are open go on."""
        if self._tls is not None:
            tls.put_into(self._tls)

    def _begin(self, connection: Connection, stream: Stream) -> None:
        """Answer a call whose message has come."""
        headers = stream.headers
        try:
            left = None if headers.timeout is None else frames.timeout_s(headers.timeout)
            if headers.method != b"POST" or not headers.content_type.startswith(b"application/grpc"):
                connection.fail(stream, UNIMPLEMENTED, "this port speaks gRPC: POST with content-type application/grpc")
                return
            message = frames.unpack(bytes(stream.body), headers.encoding, self._app.settings.max_body_bytes)
            if headers.path == self._infer_path:
                infer = self._infer(message, headers.authorization, left, headers.trace)
                stream.traceparent = infer.traceparent
                call: Any = infer.future
                finish: Any = infer.finish
            elif (answer := self._methods.get(headers.path)) is not None:
                call, finish = self._task(answer, message, headers.authorization, left), _result
            else:
                connection.fail(stream, UNIMPLEMENTED, f"there is no method {headers.path}")
                return
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes a status
            connection.fail(stream, *status_of(error))
            connection.answered()
            return
        stream.call = call
        if left is not None:
            stream.timer = self._loop.call_later(left, _expire, connection, stream)

        def done(future: asyncio.Future[Any]) -> None:
            try:
                connection.answer(stream, finish(future))
            except asyncio.CancelledError:
                return
            except Exception as error:  # noqa: BLE001 - the boundary of the process: every error becomes a status
                connection.fail(stream, *status_of(error))
            connection.answered()

        call.add_done_callback(done)

    def _task(self, answer: Answer, message: bytes, who: str, left: float | None) -> asyncio.Task[bytes]:
        task: asyncio.Task[bytes] = self._loop.create_task(answer(message, who, left))  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _result(future: asyncio.Future[bytes]) -> bytes:
    return future.result()


def _expire(connection: Connection, stream: Stream) -> None:
    """Nobody waits for the answer any more."""
    connection.fail(stream, DEADLINE_EXCEEDED, "the deadline has passed")
    if stream.call is not None:
        stream.call.cancel()


def open_grpc(app: ModelServer, host: str, port: int) -> GrpcServer:
    """The gRPC server of a model server."""
    return GrpcServer(app, host, port)

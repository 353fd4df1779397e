"""Limits on what a request may carry, enforced while it arrives, and on the hosts it may be addressed to."""

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.errors import answer

MAX_BODY_BYTES = 8 * 1024 * 1024
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class _TooLargeError(Exception):
    """Ends the reading of a body; never leaves this module."""


class BodyLimit:
    """Answers 413 as soon as a body passes the limit, whatever its Content-Length says."""

    def __init__(self, app: ASGIApp, limit_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise _TooLargeError
            return message

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, sent)
        except _TooLargeError:
            if not started:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = answer(413, f"the body is larger than {self._limit // 1024} KiB", "send it in several requests")
        await refusal(scope, receive, send)


class KnownHosts:
    """Refuses requests addressed to a name that is not ours, so that a rebound DNS name cannot reach a loopback server."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = LOCAL_HOSTS) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compare the Host header without its port."""
        if scope["type"] == "http" and "*" not in self._hosts:
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name not in self._hosts:
                refusal = answer(
                    400,
                    f"this server does not answer for the host {host!r}",
                    "use 127.0.0.1, or name the host in api.hosts of the project's conf",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

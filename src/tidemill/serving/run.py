"""Running the model server: in this process, or in several that share a port under this one's supervision."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any

from tidemill.core.errors import ConfigError
from tidemill.serving.mirror import Mirror, can_mirror
from tidemill.serving.server import ModelServer
from tidemill.serving.workers import supervise

logger = logging.getLogger(__name__)
_BACKLOG, _CONNECTIONS = 1_024, 4_096
"""Connections that wait to be taken, and that are open at once, at least; Granian stops at 128 of either by itself."""
_SWITCH_S = 0.001


def run(target: str, host: str = "127.0.0.1", port: int = 8500, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and return.

    Args:
        target: `package.module:factory`, a function without arguments that returns `build_app(…)`.
        host: the address to listen on; loopback unless you put something safe in front.
        port: the port to listen on.
        workers: processes. One runs in this very process, so ending the process ends the server; several share the port.
    """
    if workers == 1:
        serve(load(target), host=host, port=port, target=target)
    else:
        supervise(target, host, port, workers)


def serve(app: ModelServer, *, host: str = "127.0.0.1", port: int = 8500, target: str = "") -> None:
    """Serve `app` in this process until SIGTERM or SIGINT, then finish the requests in flight and return.

    `target`: the factory that made it, for a process of its own that scores for shadows; without, a thread does.
    """
    if target:
        mirror(app, target)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(app, host, port))


def mirror(app: ModelServer, target: str) -> None:
    """Before it begins: have comparisons made by a process of their own, which calls the factory that `target` names."""
    if not app.endpoints or not can_mirror():
        return

    def compares() -> bool:
        return any(len(endpoint.scorer.lineup.deployments) > 1 for endpoint in app.endpoints.values())

    try:
        made = Mirror(target, compares, max_rows=app.settings.shadow_rows)
    except OSError as error:
        logger.warning("shadows.in_a_thread", extra={"reason": str(error)})
        return
    app.shadows.clear()
    app.shadows[0] = made
    for endpoint in app.endpoints.values():
        endpoint.shadows = made


def load(target: str) -> ModelServer:
    """Call the factory that `target` names. Raises `ConfigError` when there is none."""
    module, _, name = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{target!r} names no factory of a model server: {error}; write package.module:function") from error
    app = factory()
    if not isinstance(app, ModelServer):
        raise ConfigError(f"{target!r} returned {type(app).__name__}, not what build_app returns")
    return app


def _loop() -> asyncio.AbstractEventLoop:
    """Libuv's event loop, which needs half of asyncio's time for a request; asyncio's own where it is not there (Windows)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(app: ModelServer, host: str, port: int) -> None:
    from granian.constants import Interfaces
    from granian.http import HTTP1Settings

    # the log's and the shadows' threads hand the interpreter over often, for short moments: wait less than 5 ms for it
    sys.setswitchinterval(_SWITCH_S)
    # one connection has one request at a time: those past `max_in_flight` have to be taken as well, to be refused
    open_at_once = max(_CONNECTIONS, 2 * app.settings.max_in_flight)
    how: dict[str, Any] = {"address": host, "port": port, "interface": Interfaces.RSGI, "websockets": False, "log_enabled": False}
    how |= {"backlog": _BACKLOG, "backpressure": open_at_once}
    how["http1_settings"] = HTTP1Settings(header_read_timeout=int(app.settings.head_s * 1_000))
    loop, server = asyncio.get_running_loop(), _server(app, how)

    def stop() -> None:
        if not app.stopping:
            app.stopping = True
            loop.call_later(app.settings.linger_s, server.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    app.keep_open = True
    for beside in app.beside:
        await beside.start()
    app.begun.append(_collect_less)
    renewing = None
    if hasattr(server, "take_over") and app.settings.tls is not None:
        renewing = loop.create_task(
            app.renew(app.settings.tls, host, [server.take_over, *(beside.take_over for beside in app.beside)]).run()
        )
    await server.serve()
    if renewing is not None:
        renewing.cancel()
    await asyncio.gather(app.drained(), *(beside.stop() for beside in app.beside))
    await loop.run_in_executor(None, app.close)


def _server(app: ModelServer, how: Mapping[str, Any]) -> Any:
    """Granian's server; with TLS, one that takes over a renewed certificate, where a descriptor can be put in another's place."""
    tls = app.settings.tls
    if tls is None:
        from granian.server.embed import Server

        return Server(app, **how)
    if sys.platform == "win32":
        from granian.server.embed import Server

        return Server(app, **how, **tls.granian())
    from tidemill.serving.renewable import RenewableServer

    return RenewableServer(app, tls, retire_s=app.settings.tls_retire_s, **how)


def _collect_less() -> None:
    """Look for cyclic garbage no more among what was made until now, models too: that takes 60 ms and more, in which nobody is answered."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)

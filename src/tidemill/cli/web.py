"""Building the applications of `tidemill up` from a platform and running them until they are told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.cli.options import opened

if TYPE_CHECKING:
    from tidemill.platform.config import ServingConfig
    from tidemill.platform.root import Platform
    from tidemill.serving.tls import Tls

PROJECT, OVERRIDES = "TIDEMILL_PROJECT", "TIDEMILL_OVERRIDES"
DRAIN_S = 5.0
"""Streams of events never end by themselves; after this long they are cut."""


def build_console(platform: Platform) -> Any:
    """The ASGI application: API and console over one platform."""
    from tidemill.api.app import build_api
    from tidemill.api.limits import LOCAL_HOSTS
    from tidemill.cli.asked import ModelsAsked
    from tidemill.console.app import mount
    from tidemill.retraining.why import why
    from tidemill.serving import Tokens

    tokens, config = Tokens(platform.ledger, platform.clock), platform.config
    hosts = (*LOCAL_HOSTS, *filter(None, (config.tls.name,)), *config.api.hosts)
    app = build_api(
        platform,
        verify=tokens.verify,
        why=lambda opened, prediction: why(opened.loop, prediction),
        hosts=hosts,
        origins=config.api.origins,
    )
    mount(app, models=ModelsAsked(platform, *listens(config.serving)))
    return app


def build_models(platform: Platform) -> Any:
    """The RSGI application: one scorer for each service with a pipeline or a deployment, and the feature server's routes."""
    from tidemill.features import apply_on_demand
    from tidemill.ledger import conditions, tallies
    from tidemill.serving import DegradedReader, Pins, compile_plan, scorer_for
    from tidemill.serving.server import build_app

    scorers, only = {}, platform.config.serving.service
    chosen = platform.definitions.services if only is None else {only: platform.definitions.service(only)}
    for name, service in chosen.items():
        reader = DegradedReader(service, platform.reader, notify=_events(platform, name))
        plan = compile_plan(service, reader, apply_on_demand)
        plan_for = Pins(plan, reader, apply_on_demand).plan_for
        ports = (platform.router, platform.runtime, platform.registry, platform.blobs, platform.server_log)
        scorers[name] = scorer_for(service, plan, *ports, plan_for)
    tokens, beside = _tokens(platform), _beside(platform)
    app = build_app(
        scorers,
        tokens,
        report=_stating(platform, tallies.state),
        tell=_stating(platform, conditions.state),
        tracer=platform.traces,
        feedback=_feedback(platform),
        **beside,
    )
    given = platform.config.serving
    if given.grpc_port is not None:
        app.beside.append(platform.protocol("grpc", app, listens(given)[0], given.grpc_port))
    return app


def _tokens(platform: Platform) -> Any:
    """Who may ask the model server."""
    from tidemill.core.instants import parse_duration
    from tidemill.serving import Tokens

    trust = platform.config.serving.tokens_without_ledger
    return Tokens(platform.ledger, platform.clock, trust_us=parse_duration(trust) if trust else None)


def _stating(platform: Platform, state: Callable[..., None]) -> Any:
    """Puts what this process says of itself into the ledger, under a name of this process."""
    from tidemill.core.ids import random_id

    process = random_id("server")

    def said(what: Any) -> None:
        with platform.ledger.write(durable=False) as db:
            state(db, process, what, at_us=platform.clock.now_us())

    return said


def _feedback(platform: Platform) -> Any:
    """States labels as their writer, through the store of labels."""
    from tidemill.monitoring.labels import Stated, push_labels

    def state(service: str, values: Mapping[str, float], who: str) -> int:
        stated, label = [Stated(key, value) for key, value in values.items()], platform.definitions.services[service].label
        return push_labels(label, who, stated, platform.labels, now_us=platform.clock.now_us())

    return state


def _events(platform: Platform, service: str) -> Any:
    """Puts what happens to a service's features into the ledger."""
    from tidemill.ledger.store import emit

    def notify(kind: str, body: Any) -> None:
        with platform.ledger.write() as db:
            emit(db, kind, service, body, at_us=platform.clock.now_us())

    return notify


def build_features(platform: Platform) -> Any:
    """The RSGI application of a feature server without models."""
    from tidemill.serving.server import build_app

    return build_app({}, _tokens(platform), **_beside(platform))


def _beside(platform: Platform) -> dict[str, Any]:
    """What a server needs besides its scorers."""
    from tidemill.api.queries import streams

    def gauges() -> dict[str, dict[str, float]]:
        with platform.ledger.read() as db:
            return streams.gauges(db)

    return {
        "clock": platform.clock,
        "settings": _settings(platform),
        "features": _feature_routes(platform),
        "known_us": platform.reader.known_us,
        "streams": gauges,
    }


def _settings(platform: Platform) -> Any:
    from tidemill.core.instants import SECOND_US, parse_duration
    from tidemill.platform.tls import tls_of
    from tidemill.serving.contracts import contract_of
    from tidemill.serving.http import Settings

    given = platform.config.serving
    contract = None if given.contract is None else contract_of(given.contract, os.environ)
    return Settings(
        max_body_bytes=given.max_body_bytes,
        allow_at=given.allow_at,
        contract=contract,
        log_share=given.log_share,
        log_sync=given.log_sync,
        access_log=given.access_log,
        max_in_flight=given.max_in_flight,
        rate=given.rate,
        timeout_s=parse_duration(given.timeout) / SECOND_US if given.timeout else 0.0,
        tls=tls_of(platform.config, platform.project),
        origins=frozenset(given.origins),
    )


def _feature_routes(platform: Platform) -> Any:
    from tidemill.features import apply_on_demand
    from tidemill.serving.feast import FeatureRoutes, Pusher, Reader, Schemas

    settings, schemas, definitions = _settings(platform), Schemas(platform.tables, platform.clock), platform.definitions
    reader = Reader(definitions, platform.lookup, apply_on_demand, schemas, max_keys=settings.max_keys)
    pusher = Pusher(definitions, platform.stream, schemas, platform.clock, max_rows=settings.max_rows)
    return FeatureRoutes(reader, pusher, clock=platform.clock, settings=settings)


def serve_api(project: Path, overrides: Sequence[str]) -> None:
    """Run API and console until SIGTERM."""
    from tidemill.platform.tls import tls_of

    with opened(project, overrides) as platform:
        where = platform.config.api
        tls = tls_of(platform.config, platform.project, check=where.host)
        app = build_console(platform)  # first: it imports some of the same packages, which must not begin in two threads at once
        threading.Thread(target=_ahead, args=(platform,), daemon=True).start()
        asyncio.run(_serve(app, where.host, where.port, tls))


def _ahead(platform: Platform) -> None:
    """Open what takes a third of a second, before the first page that shows a table asks for it; what is wrong with it that page says."""
    with suppress(Exception):
        _ = platform.tables


async def _serve(app: Any, host: str, port: int, tls: Tls | None) -> None:
    from granian.constants import Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    from tidemill.serving.http import HEAD_S

    # its own records go the way of all others, or lines of another shape stood among JSON
    logs = {"loggers": {"_granian": {"propagate": True}}}
    how: dict[str, Any] = {"address": host, "port": port, "log_level": LogLevels.error, "log_dictconfig": logs}
    how["http1_settings"] = HTTP1Settings(header_read_timeout=int(HEAD_S * 1_000))
    renewing = None
    if tls is None or sys.platform == "win32":
        server = Server(app, interface=Interfaces.ASGI, **how, **({} if tls is None else tls.granian()))
    else:
        from tidemill.core.clock import WallClock
        from tidemill.serving.renewable import RenewableServer
        from tidemill.serving.renewal import Renewal

        server = RenewableServer(app, tls, interface=Interfaces.ASGINL, **how)
        renewing = asyncio.create_task(Renewal(tls, host, WallClock(), [server.take_over]).run())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if renewing is not None:
        renewing.cancel()
    if not serving.done():
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait({serving}, timeout=DRAIN_S)
    if serving.done():
        serving.result()


def serve_models(project: Path, overrides: Sequence[str], factory: str = "models") -> None:
    """Run the model server (or, with the factory `features`, the feature server) until SIGTERM; its workers build their own platform."""
    from tidemill.platform.config import load_config
    from tidemill.platform.project import find_project
    from tidemill.platform.tls import tls_of
    from tidemill.serving.run import run

    root = find_project(project)
    config = load_config(root, overrides)
    where = config.serving
    tls_of(config, root, check=listens(where)[0])
    os.environ[PROJECT], os.environ[OVERRIDES] = str(root), json.dumps(list(overrides))
    run(f"tidemill.cli.web:{factory}", *listens(where), where.workers)


def listens(where: ServingConfig) -> tuple[str, int]:
    """Address and port of the model server: those of the platform whose contract it fulfils, or the configured ones."""
    from tidemill.serving.contracts import contract_of

    if where.contract is None:
        return where.host, where.port
    contract = contract_of(where.contract, os.environ)
    return contract.host, contract.port


def models() -> Any:
    """The model server of the project that the environment names: what each of its worker processes calls."""
    from tidemill.cli.logs import write_logs
    from tidemill.platform.root import Platform

    platform = Platform.open(Path(os.environ[PROJECT]), json.loads(os.environ[OVERRIDES]))
    write_logs(platform.config)
    return build_models(platform)


def features() -> Any:
    """The feature server of the same project."""
    from tidemill.cli.logs import write_logs
    from tidemill.platform.root import Platform

    platform = Platform.open(Path(os.environ[PROJECT]), json.loads(os.environ[OVERRIDES]))
    write_logs(platform.config)
    return build_features(platform)

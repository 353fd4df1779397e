"""The server's OpenAPI description, made from the routes of all protocols."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any

from tidemill.serving.protocols.base import HttpProtocol, Route

PAGES = (
    ("/v2/health", "What is served, in which role, and whether predictions are being logged durably."),
    ("/metrics", "Prometheus exposition."),
)
"""Pages of the server's own."""
_TEXT = {"schema": {"type": "string"}}
_JSON: dict[str, Any] = {"schema": {}}


def openapi(
    routes: Sequence[tuple[HttpProtocol, Route]], services: Sequence[str], features: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The description of a server with these routes and services, and with the feature server's description when it has one."""
    paths: dict[str, dict[str, Any]] = {}
    for protocol, route in routes:
        paths.setdefault(route.pattern, {})[route.method.lower()] = _operation(protocol, route, services)
    for path, told in PAGES:
        security: list[Any] = [] if path == "/v2/health" else [{"token": []}]
        ok = {"200": {"description": "done", "content": {"application/json" if path == "/v2/health" else "text/plain": _TEXT}}}
        paths[path] = {"get": {"tags": ["Tidemill"], "description": told, "security": security, "responses": ok | _errors("read")}}
    components: dict[str, Any] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    if features is not None:
        paths |= {path: methods for path, methods in features["paths"].items() if path not in paths}
        components |= {"schemas": features["components"]["schemas"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidemill model server", "version": installed("tidemill")},
        "paths": paths,
        "components": components,
    }


def _operation(protocol: HttpProtocol, route: Route, services: Sequence[str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [protocol.name],
        "description": route.told,
        "security": [] if route.action is None or route.is_open else [{"token": []}],
        "responses": {"200": {"description": "done", "content": {"*/*": _JSON}}} | _errors(route.action),
    }
    if names := re.findall(r"\{(\w+)\}", route.pattern):
        known = {"service": {"type": "string", "enum": sorted(services)}}
        operation["parameters"] = [
            {"name": n, "in": "path", "required": True, "schema": known.get(n, {"type": "string", "minLength": 1})} for n in names
        ]
    if route.takes:
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": dict(schema)} for kind, schema in route.takes.items()}}
    return operation


def _errors(action: str | None) -> dict[str, Any]:
    statuses = ["400", "404", "503"] if action is None else ["400", "401", "403", "404", "409", "413", "415", "429", "503", "504"]
    return {status: {"description": "refused; the body says why", "content": {"*/*": _JSON}} for status in statuses}

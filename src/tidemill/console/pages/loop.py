"""The home page: the ring with what happens now, and who answers at this moment."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import decisions, events, loop, monitoring, services
from tidemill.api.queries.times import as_of
from tidemill.console.draw.ring import ring
from tidemill.console.draw.spark import shares, sparkline
from tidemill.console.evidence import summary
from tidemill.console.render import page, platform_of
from tidemill.core.definitions import Service
from tidemill.core.errors import not_found

router = APIRouter(include_in_schema=False)
QUALITY_DAYS = 90


@router.get("/")
def home(request: Request, service: str = "") -> Response:
    """The whole page."""
    return page(request, "loop.html", "loop", **_context(request, service))


@router.get("/fragments/loop")
def fragment(request: Request, service: str = "") -> Response:
    """What changes when something happens."""
    return page(request, "_loop.html", "loop", **_context(request, service))


def _context(request: Request, name: str) -> dict[str, Any]:
    platform = platform_of(request)
    known = platform.definitions.services
    if name and name not in known:
        raise not_found("service", name, known)
    service = known[name] if name else next(iter(known.values()), None)
    with platform.ledger.read() as db:
        now_us = as_of(db, platform.clock)
        title = service.name if service else ""
        metric = service.gate.metric if service else "log_loss"
        quality = monitoring.served(db, title, metric, limit=QUALITY_DAYS)
        context: dict[str, Any] = {
            "now_us": now_us,
            "service": service,
            "known": list(known),
            "metric": metric,
            "ring": ring(loop.ring(db, title, now_us, metric), now_us),
            "champion": loop.champions(db, [title]).get(title),
            "deployments": services.current(db, title),
            "last": quality[-1] if quality else None,
            "decisions": decisions.listing(db, service=title, limit=8).items,
            "events": events.newest(db, but="token.", limit=12).items,
            "next_looks": _looks(service),
        }
    for item in context["decisions"]:
        item["summary"] = summary(item)
    values = [row["value"] for row in quality]
    band = [(row["low"], row["high"]) for row in quality] if quality and all(row["low"] is not None for row in quality) else []
    context["spark"] = sparkline(values, label=f"Served {metric} by day", band=band, width=420, height=64)
    context["split"] = shares(
        [(f"v{d['version']}", d["role"], d["weight"]) for d in context["deployments"] if d["weight"]],
        label="Share of requests by version",
        width=420,
    )
    return context


def _looks(service: Service | None) -> list[str]:
    return [trigger.kind.replace("_", " ") for trigger in service.retrain] if service else []

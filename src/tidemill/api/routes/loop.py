"""Health, the ring, services and their rollout."""

from typing import Any

from fastapi import APIRouter

from tidemill.api.queries import events, graphs, loop, monitoring, services
from tidemill.api.queries.times import as_of
from tidemill.api.routes.shared import Limit, Offset, Platform
from tidemill.core.definitions import Service

router = APIRouter(tags=["loop"])


@router.get("/health")
def health(platform: Platform) -> dict[str, Any]:
    """That the ledger answers, and the number of its last event."""
    with platform.ledger.read() as db:
        return {"status": "ok", "now_us": platform.clock.now_us(), "last_event": events.last_seq(db)}


@router.get("/loop")
def ring(platform: Platform, service: str | None = None) -> dict[str, Any]:
    """The eleven stages of a service's ring with what happens now."""
    found = platform.definitions.service(service)
    with platform.ledger.read() as db:
        now_us = as_of(db, platform.clock)
        stages = loop.ring(db, found.name, now_us, found.gate.metric)
        return {"service": found.name, "as_of_us": now_us, "stages": stages, "deployments": services.current(db, found.name)}


def _described(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "description": service.description,
        "label": service.label.name,
        "lead_us": service.lead_us,
        "columns": list(service.columns),
        "request_columns": list(service.request_columns),
        "triggers": [trigger.kind for trigger in service.retrain],
    }


@router.get("/services")
def listing(platform: Platform) -> dict[str, Any]:
    """Each service with what it is made of and who serves it."""
    with platform.ledger.read() as db:
        items = [
            {**_described(s), "deployments": services.current(db, s.name), "graph": graphs.nodes(db, platform.registry, s)}
            for s in platform.definitions.services.values()
        ]
    return {"items": items}


@router.get("/services/{name}")
def one(platform: Platform, name: str, offset: Offset = 0, limit: Limit = 50) -> dict[str, Any]:
    """One service: deployments now, their history and the rollout's last comparison."""
    service = platform.definitions.service(name)
    with platform.ledger.read() as db:
        return {
            **_described(service),
            "deployments": services.current(db, name),
            "graph": graphs.nodes(db, platform.registry, service),
            "history": services.history(db, name, offset=offset, limit=limit).as_json(),
            "objectives": monitoring.objectives(db, name),
        }

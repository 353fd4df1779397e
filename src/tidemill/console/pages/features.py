"""Feature views: definitions, freshness, parity, and the streams that are followed into them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import features, streams
from tidemill.api.queries.times import as_of
from tidemill.console.render import page, platform_of

router = APIRouter(include_in_schema=False)


@router.get("/features")
def views(request: Request) -> Response:
    """All views, the services that read them, whether offline and online agree, and how far streams are followed."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found, parity = features.views(db, platform.definitions, as_of(db, platform.clock)), features.parity(db)
        followed = streams.streams(db)
    on_demand = [
        (s.name, f.name, f.inputs, (f.function.__doc__ or "").strip()) for s in platform.definitions.services.values() for f in s.on_demand
    ]
    return page(request, "features.html", "features", views=found, parity=parity, on_demand=on_demand, streams=followed)

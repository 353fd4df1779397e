"""Feature views: what they are made of, how fresh they are, whether offline and online agree."""

from typing import Any

from fastapi import APIRouter

from tidemill.api.queries import features, streams, versions
from tidemill.api.queries.times import as_of
from tidemill.api.routes.shared import Platform

router = APIRouter(tags=["features"])


@router.get("/features")
def listing(platform: Platform) -> dict[str, Any]:
    """All feature views with their columns and freshness, the last parity report of each service, and how far streams are followed."""
    with platform.ledger.read() as db:
        items = features.views(db, platform.definitions, as_of(db, platform.clock))
        return {"items": items, "parity": features.parity(db), "streams": streams.streams(db)}


@router.get("/features/{view}")
def one(platform: Platform, view: str) -> dict[str, Any]:
    """One feature view."""
    with platform.ledger.read() as db:
        return features.view(db, platform.definitions, view, as_of(db, platform.clock))


@router.get("/features/{view}/versions")
def versions_of(platform: Platform, view: str) -> dict[str, Any]:
    """The versions of a view, what is online of each, and who reads it."""
    with platform.ledger.read() as db:
        features.view(db, platform.definitions, view)
        return {"items": versions.listing(db, platform.definitions, view)}

"""Feature views: what they are made of, how fresh they are, whether offline and online agree."""

from typing import Any

from fastapi import APIRouter

from tidemill.api.queries import features
from tidemill.api.routes.shared import Platform

router = APIRouter(tags=["features"])


@router.get("/features")
def listing(platform: Platform) -> dict[str, Any]:
    """All feature views with their columns and freshness, and the last parity report of each service."""
    with platform.ledger.read() as db:
        return {"items": features.views(db, platform.definitions), "parity": features.parity(db)}


@router.get("/features/{view}")
def one(platform: Platform, view: str) -> dict[str, Any]:
    """One feature view."""
    with platform.ledger.read() as db:
        return features.view(db, platform.definitions, view)

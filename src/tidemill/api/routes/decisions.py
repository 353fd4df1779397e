"""Decisions and replays."""

from typing import Any

from fastapi import APIRouter

from tidemill.api.queries import decisions, replay
from tidemill.api.routes.shared import Limit, Offset, Platform

router = APIRouter(tags=["decisions"])


@router.get("/decisions")
def listing(
    platform: Platform, service: str = "", kind: str = "", outcome: str = "", subject: str = "", offset: Offset = 0, limit: Limit = 50
) -> dict[str, Any]:
    """Decisions, newest first, with their evidence."""
    with platform.ledger.read() as db:
        found = decisions.listing(db, service=service, kind=kind, outcome=outcome, subject=subject, offset=offset, limit=limit)
    return found.as_json()


@router.get("/decisions/{decision_id}")
def one(platform: Platform, decision_id: str) -> dict[str, Any]:
    """One decision and those that take it back."""
    with platform.ledger.read() as db:
        return decisions.one_decision(db, decision_id)


@router.get("/replays")
def replays(platform: Platform) -> dict[str, Any]:
    """Replays, newest first, each policy with its totals."""
    with platform.ledger.read() as db:
        return {"items": replay.listing(db)}


@router.get("/replays/{replay_id}")
def one_replay(platform: Platform, replay_id: str) -> dict[str, Any]:
    """One replay with the weeks of every policy."""
    with platform.ledger.read() as db:
        return replay.one_replay(db, replay_id)

"""What each retraining policy would have done on history."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import replay
from tidemill.console import plots
from tidemill.console.render import page, platform_of
from tidemill.console.verdict import best, compared, verdict

router = APIRouter(include_in_schema=False)


@router.get("/replay")
def newest(request: Request) -> Response:
    """The newest replay, or how to make one."""
    with platform_of(request).ledger.read() as db:
        known = replay.listing(db)
    if not known:
        return page(request, "replay_empty.html", "replay")
    return one(request, known[0]["id"])


@router.get("/replay/{replay_id}")
def one(request: Request, replay_id: str) -> Response:
    """One replay: the policies' curves and totals."""
    with platform_of(request).ledger.read() as db:
        found, known = replay.one_replay(db, replay_id), replay.listing(db)
    policies = compared(found["policies"])
    return page(
        request, "replay.html", "replay", replay=found, known=known, policies=policies, best=best(policies), verdict=verdict(policies, found.get("primary", "")),
        plots={"weeks": plots.weeks(found)} if any(p["weeks"] for p in policies) else {},
    )  # fmt: skip

"""Every decision with its evidence and its cause."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import decisions
from tidemill.console import plots
from tidemill.console.evidence import looks, show, summary
from tidemill.console.render import page, platform_of

router = APIRouter(include_in_schema=False)


@router.get("/decisions")
def listing(request: Request, kind: str = "", outcome: str = "", service: str = "", offset: int = 0) -> Response:
    """Decisions, newest first."""
    with platform_of(request).ledger.read() as db:
        found = decisions.listing(db, service=service, kind=kind, outcome=outcome, offset=offset, limit=40)
        choices = decisions.kinds(db)
    for item in found.items:
        item["summary"] = summary(item)
    return page(request, "decisions.html", "decisions", decisions=found, kind=kind, outcome=outcome, choices=choices)


@router.get("/decisions/{decision_id}")
def one(request: Request, decision_id: str) -> Response:
    """One decision."""
    with platform_of(request).ledger.read() as db:
        found = decisions.one_decision(db, decision_id)
    seen = looks(found["evidence"])
    margin = (found["evidence"] or {}).get("margin") or 0.0
    charts = {"sequence": plots.sequence(seen, margin)} if len(seen) > 1 else {}
    return page(request, "decision.html", "decisions", decision=found, shown=show(found), said=summary(found), plots=charts)

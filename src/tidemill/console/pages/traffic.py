"""Logged traffic answered again by another model version."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import traffic
from tidemill.console import plots
from tidemill.console.render import page, platform_of

router = APIRouter(include_in_schema=False)


@router.get("/traffic/{report_id}")
def one(request: Request, report_id: str) -> Response:
    """One report: how far the answers are apart, where, and which would have been better."""
    with platform_of(request).ledger.read() as db:
        found = traffic.one(db, report_id)
        known = traffic.listing(db, found["service"])
    return page(request, "traffic.html", "services", found=found, known=known, plots={"scores": plots.scores(found["scores"])})

"""What a service bore under load."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import loadtests
from tidemill.console import plots
from tidemill.console.render import page, platform_of

router = APIRouter(include_in_schema=False)


@router.get("/loadtests/{report_id}")
def one(request: Request, report_id: str) -> Response:
    """One test: calls a second and latencies over its time."""
    with platform_of(request).ledger.read() as db:
        found = loadtests.one(db, report_id)
        known = loadtests.listing(db, found["service"])
    drawn = (
        {"rate": plots.load_rate(found["history"]), "latency": plots.load_latency(found["history"])} if len(found["history"]) > 1 else {}
    )
    return page(request, "loadtest.html", "services", found=found, known=known, plots=drawn)

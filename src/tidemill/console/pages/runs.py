"""The list of runs, and runs side by side."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import runs
from tidemill.console.render import page, platform_of
from tidemill.core.errors import InvalidError

router = APIRouter(include_in_schema=False)
SHOWN = 4


@router.get("/runs")
def listing(request: Request, status: str = "", offset: int = 0) -> Response:
    """Runs, newest first, with the metrics named in the query string (default: those of the newest run that look like results)."""
    platform = platform_of(request)
    names = request.query_params.getlist("metric")[:SHOWN]
    with platform.ledger.read() as db:
        newest = runs.listing(db, status="finished", limit=1).items
        known = [m["name"] for m in runs.metric_names(db, newest[0]["id"])] if newest else []
        names = names or _results(known)
        found = runs.listing(db, metrics=names, status=status, offset=offset, limit=40)
    return page(request, "runs.html", "runs", runs=found, names=names, known=known, status=status)


def _results(names: list[str]) -> list[str]:
    """Metrics of a last evaluation first, whatever they are called."""
    ranked = sorted(names, key=lambda n: (not any(w in n for w in ("holdout", "test", "evaluat")), "rows" in n, n))
    return ranked[:3]


@router.get("/runs/compare")
def compare(request: Request) -> Response:
    """Up to eight runs side by side."""
    ids = request.query_params.getlist("run")
    if len(ids) < 2:
        raise InvalidError("choose at least two runs to compare; tick them on the page Runs")
    with platform_of(request).ledger.read() as db:
        found = runs.compare(db, ids)
    return page(request, "compare.html", "runs", **found)

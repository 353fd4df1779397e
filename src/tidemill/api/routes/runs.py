"""Runs: list, one, compare; only the metrics that are named are read."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from tidemill.api.queries import runs
from tidemill.api.routes.shared import Limit, Offset, Platform

router = APIRouter(tags=["runs"])
Names = Annotated[list[str], Query(max_length=50)]


@router.get("/runs")
def listing(
    platform: Platform,
    metric: Names = [],  # noqa: B006
    status: str = "",
    service: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Runs, newest first, with the last value of each named metric."""
    with platform.ledger.read() as db:
        return runs.listing(db, metrics=metric, status=status, service=service, offset=offset, limit=limit).as_json()


@router.get("/runs/search")
def search(
    platform: Platform,
    order_by: str,
    *,
    descending: bool = False,
    metric: Names = [],  # noqa: B006
    offset: Offset = 0,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Runs ordered by the last value of a metric."""
    names = list(dict.fromkeys([order_by, *metric]))
    found = platform.tracker.search(order_by=order_by, descending=descending, metrics=names, limit=limit, offset=offset)
    return {"items": found, "offset": offset, "limit": limit, "next": offset + limit if len(found) == limit else None}


@router.get("/runs/compare")
def compare(platform: Platform, run: Annotated[list[str], Query(min_length=1, max_length=8)]) -> dict[str, Any]:
    """Up to eight runs side by side."""
    with platform.ledger.read() as db:
        return runs.compare(db, run)


@router.get("/runs/{run_id}")
def one(platform: Platform, run_id: str) -> dict[str, Any]:
    """One run: cause, graph, steps with what their cache keys are made of, parameters and names of metrics."""
    with platform.ledger.read() as db:
        return {**runs.one_run(db, run_id), "metrics": runs.metric_names(db, run_id)}


@router.get("/runs/{run_id}/metrics/{name}")
def history(platform: Platform, run_id: str, name: str) -> dict[str, Any]:
    """All values of one metric, by step."""
    points = platform.tracker.history(run_id, name)
    return {"name": name, "items": [{"step": s, "value": v, "at_us": at} for s, v, at in points]}

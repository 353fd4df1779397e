"""Drift and labelled quality over time, with intervals, coverage and the deployments between."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.queries import monitoring, services, state
from tidemill.console import plots
from tidemill.console.draw.spark import sparkline
from tidemill.console.render import page, platform_of
from tidemill.core.definitions import Service
from tidemill.core.instants import DAY_US, format_duration

router = APIRouter(include_in_schema=False)
DRIFT, SKEW = "psi:", "skew:"
DAYS = 400


@router.get("/monitoring")
def monitors(request: Request, service: str = "", objective: str = "", window: str = "") -> Response:
    """One service's objectives; labelled quality first."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        names = services.names(db, list(platform.definitions.services))
        name = service or (names[0] if names else "")
        definition = platform.definitions.services.get(name)
        known = monitoring.objectives(db, name)
        labelled = [o["objective"] for o in known if not o["objective"].startswith((DRIFT, SKEW))]
        chosen = objective or (definition.gate.metric if definition and definition.gate.metric in labelled else (labelled or [""])[0])
        lengths = monitoring.lengths(db, name, chosen)
        length_us = _chosen(lengths, window)
        rows = monitoring.served(db, name, chosen, length_us=length_us, limit=DAYS)
        worst = [w for w in monitoring.worst(db, name, DRIFT, limit=13) if w["objective"] != "psi:max"]
        drift = monitoring.served(db, name, "psi:max", limit=DAYS)
        history = services.history(db, name, limit=60).items
        skew = state.find(db, f"{SKEW}{name}") or {}
        for item in worst:
            past = monitoring.served(db, name, item["objective"], limit=60)
            item["spark"] = sparkline([p["value"] for p in past], label=f"Drift of {item['objective'][len(DRIFT) :]}", width=150, height=28)
    threshold = _threshold(definition)
    return page(
        request, "monitoring.html", "monitoring", names=names, name=name, known=labelled, chosen=chosen, last=rows[-1] if rows else None, worst=worst,
        threshold=threshold, skew=skew if skew.get("columns") else None, plots=_charts(chosen, rows, drift, history, threshold), definition=definition,
        lengths=lengths,
        length_us=length_us,
    )  # fmt: skip


def _chosen(lengths: list[int], window: str) -> int | None:
    """The window length of the query string, else a day, else the shortest."""
    named = {format_duration(length): length for length in lengths}
    return named.get(window) or (DAY_US if DAY_US in lengths else next(iter(lengths), None))


def _charts(
    chosen: str, rows: list[dict[str, Any]], drift: list[dict[str, Any]], history: list[dict[str, Any]], threshold: float | None
) -> dict[str, Any]:
    marks = [
        (d["since_us"], f"v{d['version']}")
        for d in history
        if rows and d["role"] in ("live", "retired") and d["since_us"] >= rows[0]["from_us"] - 30 * DAY_US
    ]
    times = [at for at, _ in marks] + [r["until_us"] for r in (*rows, *drift)]
    span = (min(times), max(times)) if times else None  # one for all, so that a day is below itself
    charts = {}
    if rows:
        charts["quality"] = plots.quality(chosen, rows, marks, span)
        charts["coverage"] = plots.coverage(rows, span)
    if drift:
        charts["drift"] = plots.drift(drift, threshold, span)
    return charts


def _threshold(service: Service | None) -> float | None:
    return next((t.threshold for t in service.retrain if t.kind == "drift"), None) if service else None

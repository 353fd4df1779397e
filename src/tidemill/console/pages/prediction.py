"""Why one prediction was what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from tidemill.console.draw.timeline import timeline
from tidemill.console.evidence import show, summary
from tidemill.console.render import page, platform_of

router = APIRouter(include_in_schema=False)


@router.get("/predictions")
def find(request: Request, id: str = "") -> Response:  # noqa: A002 -- the name of the form's field
    """Where to put an id."""
    if id.strip():
        return RedirectResponse(f"/predictions/{id.strip()}", status_code=303)
    return page(request, "prediction_find.html", "services")


@router.get("/predictions/{prediction_id}")
def why(request: Request, prediction_id: str) -> Response:
    """The whole chain behind one prediction."""
    found: Mapping[str, Any] = request.app.state.why(platform_of(request), prediction_id)
    answer, decision = found["prediction"], found.get("decision")
    return page(
        request, "prediction.html", "services", why=found, answer=answer, decision=decision, label=(found.get("label") or [None])[-1],
        shown=show(decision) if decision else None, said=summary(decision) if decision else "", views=_views(found.get("features", []), answer["at_us"]),
        direct=[f for f in found.get("features", []) if not f.get("view")],
    )  # fmt: skip


def _views(features: list[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
    """Features grouped by view, each with one picture of the source rows they share."""
    out: dict[str, dict[str, Any]] = {}
    for feature in features:
        if not feature.get("view"):
            continue
        rows = feature.get("rows", [])
        view = out.setdefault(
            feature["view"],
            {"name": feature["view"], "key": feature.get("key", {}), "table": feature.get("table"), "features": [], "rows": rows},
        )
        view["features"].append(feature)
    for view in out.values():
        view["picture"] = timeline([(r["event_us"], r["known_us"], r["use"]) for r in view["rows"]], at_us)
        view["used"] = sum(r["use"] == "used" for r in view["rows"])
    return list(out.values())

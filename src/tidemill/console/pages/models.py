"""Model versions: what they scored, who decided, what they came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.card import model_card
from tidemill.api.queries import data, decisions, monitoring, runs, services
from tidemill.api.routes.models import described
from tidemill.console.evidence import Shown, show
from tidemill.console.render import page, platform_of
from tidemill.core.errors import NotFoundError

router = APIRouter(include_in_schema=False)
PER_PAGE = 40


@router.get("/models")
def models(request: Request, offset: int = 0) -> Response:
    """All versions, newest first."""
    found = [described(v) for v in platform_of(request).registry.versions()]
    names = list(dict.fromkeys(v["name"] for v in found))
    metrics = list(dict.fromkeys(k for v in found[:PER_PAGE] for k in v["metrics"]))[:5]
    rows = found[offset : offset + PER_PAGE]
    following = offset + PER_PAGE if offset + PER_PAGE < len(found) else None
    return page(request, "models.html", "models", versions=rows, names=names, metrics=metrics, offset=offset, following=following)


@router.get("/models/{name}/{version}")
def one(request: Request, name: str, version: int) -> Response:
    """One version with the evidence of its gate and its lineage."""
    platform = platform_of(request)
    found = platform.registry.get(name, version)
    with platform.ledger.read() as db:
        made = decisions.about(db, name, version)
        try:
            run = runs.one_run(db, found.run_id)
        except NotFoundError:
            run = None
        served = [d for d in services.history(db, name, limit=200).items if d["version"] == version]
        baseline = data.profile(db, platform.profiler, f"baseline:{name}/{version}")
        seen = monitoring.last(db, name, "log_loss", version=version)
    gate: Shown | None = next((show(d) for d in reversed(made) if d["kind"] == "gate"), None)
    return page(
        request, "version.html", "models", version=described(found), decisions=made, run=run, deployments=served, seen=seen, gate=gate,
        snapshots=_mapping(found.meta.get("snapshots")), baseline_rows=baseline[1].rows if baseline else None,
    )  # fmt: skip


@router.get("/models/{name}/{version}/card")
def card(request: Request, name: str, version: int) -> Response:
    """The model card of a version."""
    platform = platform_of(request)
    found = platform.registry.get(name, version)
    made = model_card(platform.definitions, platform.ledger, found)
    return page(request, "card.html", "models", version=described(found), card=made)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

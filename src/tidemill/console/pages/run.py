"""One run: its cause, its graph, what was cached and why the rest ran, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.needs import Needs
from tidemill.api.queries import runs
from tidemill.console import plots
from tidemill.console.draw.graph import graph
from tidemill.console.render import page, platform_of
from tidemill.pipelines.keys import differences

router = APIRouter(include_in_schema=False)
MAX_CHARTS = 6


@router.get("/runs/{run_id}")
def one(request: Request, run_id: str) -> Response:
    """The page of a run."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found = runs.one_run(db, run_id)
        names = runs.metric_names(db, run_id)
        previous = {step["node"]: runs.step_before(db, step) for step in found["steps"]}
    steps = {step["node"]: {**step, "because": _because(step, previous[step["node"]])} for step in found["steps"]}
    order = {node: i for i, node in enumerate(_nodes(found, steps))}
    shown = sorted(steps.values(), key=lambda step: order.get(step["node"], 999))
    curves = [m["name"] for m in names if m["step"] > 0][:MAX_CHARTS]
    return page(
        request, "run.html", "runs", run=found, steps=shown, picture=graph(_nodes(found, steps), steps), metrics=names, values={m["name"]: m["value"] for m in names},
        plots=_charts(platform, run_id, curves),
    )  # fmt: skip


def _charts(platform: Needs, run_id: str, names: Sequence[str]) -> dict[str, Any]:
    return {name: plots.curve(name, [(s, v) for s, v, _ in platform.tracker.history(run_id, name)]) for name in names}


def _nodes(run: Mapping[str, Any], steps: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids and the ids they need, from the recorded graph."""
    drawn = run["graph"] if isinstance(run["graph"], Mapping) else {}
    nodes: dict[str, list[str]] = {str(n["id"]): [] for n in drawn.get("nodes", [])} or {node: [] for node in steps}
    for need, node in drawn.get("edges", []):
        if need in nodes and node in nodes:
            nodes[node].append(need)
    return nodes


def _because(step: Mapping[str, Any], before: Mapping[str, Any] | None) -> Sequence[str]:
    """Which parts of the cache key differ from the last time the step ran."""
    if step["status"] == "cached":
        return ["same code, inputs, parameters and versions as before"]
    if before is None:
        return ["ran for the first time"]
    return differences(before["key_parts"] or {}, step["key_parts"] or {})[:8] or ["its last run had not finished"]

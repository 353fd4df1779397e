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

router = APIRouter(include_in_schema=False)
MAX_CHARTS = 6


@router.get("/runs/{run_id}")
def one(request: Request, run_id: str) -> Response:
    """The page of a run."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found = runs.one_run(db, run_id)
        names = runs.metric_names(db, run_id)
        values = runs.last_values(db, [run_id], [m["name"] for m in names]).get(run_id, {})
        previous = {step["node"]: runs.step_before(db, step) for step in found["steps"]}
    steps = {step["node"]: {**step, "because": _because(step, previous[step["node"]])} for step in found["steps"]}
    curves = [m["name"] for m in names if m["n"] > 1][:MAX_CHARTS]
    return page(
        request, "run.html", "runs", run=found, steps=list(steps.values()), picture=graph(_nodes(found, steps), steps), metrics=names, values=values,
        plots=_charts(platform, run_id, curves),
    )  # fmt: skip


def _charts(platform: Needs, run_id: str, names: Sequence[str]) -> dict[str, Any]:
    return {name: plots.curve(name, [(s, v) for s, v, _ in platform.tracker.history(run_id, name)]) for name in names}


def _nodes(run: Mapping[str, Any], steps: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids and needs, from the recorded graph, whatever of it there is."""
    drawn = run["graph"] if isinstance(run["graph"], Mapping) else {}
    nodes = drawn.get("nodes", [])
    if not nodes:
        return {node: [] for node in steps}
    return {str(n["id"]): sorted(_needs(n) & {str(m["id"]) for m in nodes}) for n in nodes}


def _needs(node: Mapping[str, Any]) -> set[str]:
    if "needs" in node:
        return set(map(str, node["needs"]))
    return set(_refs(node.get("args", node.get("inputs", {}))))


def _refs(value: Any) -> list[str]:
    """Names of nodes referred to anywhere in a node's arguments: {"node": NAME} or {"ref": NAME}."""
    if isinstance(value, Mapping):
        own = [str(value[key]) for key in ("node", "ref", "$ref") if isinstance(value.get(key), str)]
        return own + [name for item in value.values() for name in _refs(item)]
    return [name for item in value for name in _refs(item)] if isinstance(value, list) else []


def _because(step: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """Which parts of the cache key differ from the last time the step ran."""
    if step["status"] == "cached":
        return ["same code, inputs, parameters and versions as before"]
    if before is None:
        return ["ran for the first time"]
    parts, old = step["key_parts"] or {}, before["key_parts"] or {}
    changed = [key for key in parts if parts[key] != old.get(key)]
    return [_difference(key, old.get(key), parts[key]) for key in changed] or ["its last run had not finished"]


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [name for name in new if new[name] != old.get(name)]
        return f"{key} changed: {', '.join(map(str, names[:6]))}"
    return f"{key} changed"

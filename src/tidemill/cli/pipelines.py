"""tidemill run: a pipeline, once for each content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import actor, json_option, key_values, opened, project_options
from tidemill.cli.output import show_json, show_rows
from tidemill.core.errors import not_found
from tidemill.core.instants import Instant, parse_instant


@click.command("run")
@project_options
@json_option
@click.argument("pipeline", required=False)
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the pipeline; may be repeated. Instants are ISO 8601.",
)
@click.option("--explain", is_flag=True, help="Say which steps would run and what changed; run nothing.")
@click.option("--force", multiple=True, metavar="STEP", help="Run this step even if it is cached; may be repeated.")
def run_command(
    project: Path, overrides: Sequence[str], as_json: bool, pipeline: str | None, params: Sequence[str], explain: bool, force: Sequence[str]
) -> int:
    """Run PIPELINE (default: the only one). Steps whose key was finished before are cache hits; exit 1 when a step fails."""
    with opened(project, overrides) as platform:
        graph = _graph(platform, pipeline, key_values(params, "--param"))
        if explain:
            plan = platform.executor.plan(graph)
            rows = [{"node": p.node, "step": p.step, "state": p.state, "because": "; ".join(p.because)} for p in plan]
            show_rows(rows, ["node", "step", "state", "because"], as_json=as_json)
            return 0
        from tidemill.retraining.manual import run

        result = run(platform.loop, graph, force=force, actor=actor())
    return show_result(result, as_json=as_json)


def _graph(platform: Any, name: str | None, params: dict[str, Any]) -> Any:
    known = platform.definitions.pipelines
    if name is None and len(known) == 1:
        name = next(iter(known))
    if name is None or name not in known:
        raise not_found("pipeline", name or "", known)
    given = {k: _instant(v) if k == "until" or k.endswith("_us") else v for k, v in params.items()}
    if "until" in known[name].parameters and "until" not in given:
        given["until"] = platform.clock.now_us()
    return known[name].graph(**given)


def _instant(value: Any) -> Any:
    if isinstance(value, int):
        return Instant(value)
    return parse_instant(value if isinstance(value, str) else value.isoformat())


def show_result(result: Any, *, as_json: bool) -> int:
    """Print how a run ended; the exit code."""
    if as_json:
        show_json({k: getattr(result, k) for k in ("run_id", "status", "output", "ran", "cached", "wall_s", "error")})
    else:
        mark = click.style("✓", fg="green") if result.status == "finished" else click.style("✗", fg="red")
        click.echo(f"{mark} {result.run_id}: {result.status} in {result.wall_s:.1f} s, {result.ran} steps ran, {result.cached} cached")
        if result.error:
            click.echo(f"  {result.error}; `tidemill runs show {result.run_id}` has the steps")
    return 0 if result.status == "finished" else 1

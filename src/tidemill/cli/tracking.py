"""tidemill runs: what ran, and how runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import json_option, limit_option, opened, project_options
from tidemill.cli.output import cell, show_facts, show_json, show_rows


@click.group("runs", invoke_without_command=True)
@project_options
@json_option
@limit_option
@click.option("--metric", "metrics", multiple=True, help="Show the last value of this metric; may be repeated.")
@click.option("--status", type=click.Choice(["running", "finished", "failed"]), default=None, help="Only these.")
@click.pass_context
def runs_command(
    context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, limit: int, metrics: Sequence[str], status: str | None
) -> None:
    """List runs, newest first, with the cause of each."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    from tidemill.api.queries import runs

    with opened(project, overrides) as platform, platform.ledger.read() as db:
        rows = runs.listing(db, metrics=metrics, status=status or "", limit=min(limit, 200)).items
    for row in rows:
        row.update({name: row["metrics"].get(name) for name in metrics})
        row["nodes"] = " ".join(f"{n} {state}" for state, n in sorted(row["steps"].items()))
    columns = ["id", "pipeline", "cause_kind", "status", "started_us", "wall_s", "nodes", *metrics]
    show_rows(rows, columns, as_json=as_json, empty="no runs yet; `tidemill train` makes one")


@runs_command.command("show")
@click.argument("run")
@json_option
@click.pass_obj
def show_run(where: tuple[Path, Sequence[str]], run: str, as_json: bool) -> None:
    """Show one run: cause, steps, parameters, code."""
    from tidemill.api.queries import runs

    with opened(*where) as platform, platform.ledger.read() as db:
        found = runs.one_run(db, run)
    if as_json:
        show_json(found)
        return
    facts = {k: found[k] for k in ("pipeline", "service", "status", "started_us", "finished_us", "wall_s", "params", "code", "error")}
    show_facts({**facts, "cause": (found["cause"] or {}).get("kind")}, as_json=False, title=run)
    show_rows(found["steps"], ["node", "status", "wall_ms", "cache_key", "error"], as_json=False, title="steps")


@runs_command.command("compare")
@click.argument("runs", nargs=-1, required=True)
@json_option
@click.pass_obj
def compare_runs(where: tuple[Path, Sequence[str]], runs: Sequence[str], as_json: bool) -> None:
    """Put the parameters and metrics of up to eight runs side by side."""
    from tidemill.api.queries import runs as queries

    with opened(*where) as platform, platform.ledger.read() as db:
        found = queries.compare(db, runs)
    if as_json:
        show_json(found)
        return
    rows = [
        {
            "": "≠" if row["differs"] else "",
            "what": kind,
            "name": row["name"],
            **dict(zip(runs, (cell("", v) for v in row["values"]), strict=False)),
        }
        for kind in ("params", "metrics")
        for row in found[kind]
    ]
    show_rows(rows, ["", "what", "name", *runs], as_json=False, empty="these runs have no parameters and no metrics")

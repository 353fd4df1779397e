"""tidemill monitor and labels: how good it is, and how that is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import json_option, limit_option, opened, project_options
from tidemill.cli.output import show_json, show_rows, sparkline
from tidemill.core.errors import not_found


@click.command("monitor")
@project_options
@json_option
@limit_option
@click.argument("objective", required=False)
@click.option("--service", default=None, help="Which service, when there are several.")
@click.option("--version", type=int, default=None, help="Only this model version.")
def monitor_command(
    project: Path, overrides: Sequence[str], as_json: bool, limit: int, objective: str | None, service: str | None, version: int | None
) -> None:
    """Show each objective's course, or every window of one OBJECTIVE with its interval and coverage."""
    from tidemill.api.queries import monitoring

    with opened(project, overrides) as platform, platform.ledger.read() as db:
        name = platform.definitions.service(service).name
        known = [o["objective"] for o in monitoring.objectives(db, name)]
        if objective is not None and objective not in known:
            raise not_found("objective", objective, known)
        series = {o: monitoring.series(db, name, o, version=version) for o in ([objective] if objective else known)}
    if objective is not None:
        rows = [{**r, "coverage": r["covered"] / r["n"] if r["n"] else None} for r in series[objective][-limit:]]
        show_rows(rows, ["from_us", "until_us", "version", "value", "low", "high", "n", "coverage"], as_json=as_json)
        return
    if as_json:
        show_json(series)
        return
    rows = []
    for found, windows in series.items():
        course = one_course(windows)
        values = [w["value"] for w in course][-60:]
        last: dict[str, Any] = next((w for w in reversed(course) if w["value"] is not None), {})
        rows.append(
            {"objective": found, "course": sparkline(values), **{k: last.get(k) for k in ("value", "low", "high", "n", "until_us")}}
        )
    show_rows(
        rows,
        ["objective", "course", "value", "low", "high", "n", "until_us"],
        as_json=False,
        empty="nothing observed yet; it takes predictions",
    )


def one_course(windows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One window for each end: that of the service as a whole (version 0), else that of the newest version."""
    chosen: dict[int, dict[str, Any]] = {}
    for window in windows:
        other = chosen.get(window["until_us"])
        if other is None or (window["version"] == 0, window["version"]) > (other["version"] == 0, other["version"]):
            chosen[window["until_us"]] = window
    return [chosen[until] for until in sorted(chosen)]

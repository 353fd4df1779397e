"""tidemill replay-traffic: logged requests answered again by another model version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import json_option, opened, project_options
from tidemill.cli.output import progress, show_facts, show_json, show_rows
from tidemill.core.instants import parse_instant


@click.command("replay-traffic")
@project_options
@json_option
@click.argument("service", required=False)
@click.option("--model", "version", type=int, required=True, help="The model version that answers again.")
@click.option("--from", "from_", default=None, help="First instant (ISO 8601, UTC without a zone); a week before --until by default.")
@click.option("--until", default=None, help="Where to stop; behind the newest prediction by default.")
def replay_traffic_command(
    project: Path, overrides: Sequence[str], as_json: bool, service: str | None, version: int, from_: str | None, until: str | None
) -> None:
    """Answer the logged requests of SERVICE again with another model version, and show what would have been different.

    Nothing is deployed. The report is kept; the console shows it under Services.
    """
    from tidemill.retraining.traffic import replay_traffic

    start, end = (parse_instant(text) if text else None for text in (from_, until))
    with opened(project, overrides) as platform, progress("replaying traffic") as bar:
        found = platform.definitions.service(service)
        report = replay_traffic(platform.loop, found, version, from_us=start, until_us=end, progress=bar)
    if as_json:
        show_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    heads = ("rows", "from_us", "until_us", "differ", "crossed", "mean_logged", "mean_candidate", "degraded")
    facts = {k: report[k] for k in heads} | {f"apart {k}": v for k, v in report["apart"].items()}
    show_facts(facts, as_json=False, title=f"version {report['version']} on the traffic of {report['service']}: {report['id']}")
    show_facts(report["quality"], as_json=False, title="labelled quality, lower is better")
    columns = ["slice", "group", "rows", "differ", "mean", "labelled", "logged", "candidate"]
    show_rows(report["slices"], columns, as_json=False, title="by slice", empty="no text among the inputs")
    largest = ["id", "answered_by", "logged", "candidate", "at_us"]
    show_rows(report["largest"][:10], largest, as_json=False, title="largest differences", empty="none")

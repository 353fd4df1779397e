"""tidemill train: a service's pipeline, now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import INSTANT, actor, json_option, opened, project_options
from tidemill.cli.pipelines import show_result


@click.command("train")
@project_options
@json_option
@click.argument("service", required=False)
@click.option("--until", "until_us", type=INSTANT, default=None, help="Learn from what was known by then (ISO 8601; default now).")
@click.option("--reason", default="", help="Kept with the cause.")
def train_command(project: Path, overrides: Sequence[str], as_json: bool, service: str | None, until_us: int | None, reason: str) -> int:
    """Run the pipeline of SERVICE (default: the only one). The new version is registered; gate and rollout follow in the loop."""
    from tidemill.retraining.manual import train

    with opened(project, overrides) as platform:
        found = platform.definitions.service(service)
        result = train(platform.loop, found, until_us=until_us, reason=reason, actor=actor())
    return show_result(result, as_json=as_json)

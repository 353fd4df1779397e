"""tidemill models: model versions, aliases, lineage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import json_option, limit_option, opened, project_options
from tidemill.cli.output import show_facts, show_json, show_rows


@click.group("models", invoke_without_command=True)
@project_options
@json_option
@limit_option
@click.option("--name", default=None, help="Only versions of this model.")
@click.pass_context
def models_command(context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, limit: int, name: str | None) -> None:
    """List model versions, newest first."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    with opened(project, overrides) as platform:
        versions = platform.registry.versions(name)[:limit]
    rows = [_row(v) for v in versions]
    show_rows(
        rows,
        ["name", "version", "status", "aliases", "log_loss", "auc", "at_us", "run_id"],
        as_json=as_json,
        empty="no models yet; `tidemill train` makes one",
    )


def _row(version: Any) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "status": version.status,
        "aliases": ", ".join(version.aliases),
        "at_us": version.at_us,
        "run_id": version.run_id,
        "digest": version.digest,
        "uri": version.uri,
        "metrics": dict(version.metrics),
        **{k: version.metrics.get(k) for k in ("log_loss", "auc")},
    }


@models_command.command("show")
@click.argument("name")
@click.argument("version", default="champion")
@json_option
@click.pass_obj
def show_model(where: tuple[Path, Sequence[str]], name: str, version: str, as_json: bool) -> None:
    """Show VERSION (a number or an alias, default champion) of model NAME, with the decisions about it."""
    from tidemill.api.queries import decisions

    with opened(*where) as platform:
        found = platform.registry.get(name, int(version) if version.isdigit() else version)
        with platform.ledger.read() as db:
            about = decisions.about(db, name, found.version)
    if as_json:
        show_json({**_row(found), "meta": found.meta, "decisions": about})
        return
    facts = {k: v for k, v in _row(found).items() if k not in ("name", "version", "log_loss", "auc")}
    show_facts({**facts, "meta": found.meta}, as_json=False, title=f"{name} version {found.version}")
    show_rows(about, ["at_us", "kind", "outcome", "id"], as_json=False, title="decisions", empty="no decisions about it yet")


@models_command.command("fetch")
@click.argument("name")
@click.argument("version", default="champion")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="New folder for the MLflow Model directory.")
@click.pass_obj
def fetch_model(where: tuple[Path, Sequence[str]], name: str, version: str, to: Path) -> None:
    """Copy the MLflow Model directory of a version, verified by its digest, to a new folder."""
    import shutil

    from tidemill.core.errors import ConflictError

    if to.exists():
        raise ConflictError(f"{to} exists already; name a new folder")
    with opened(*where) as platform:
        found = platform.registry.get(name, int(version) if version.isdigit() else version)
        shutil.copytree(platform.blobs.fetch(found.digest), to, copy_function=shutil.copyfile)
    click.echo(f"{found.uri} → {to}")


@models_command.command("card")
@click.argument("name")
@click.argument("version", default="champion")
@click.option("--md", "form", flag_value="md", default=True, help="As Markdown (the default).")
@click.option("--html", "form", flag_value="html", help="As a page that needs nothing else.")
@json_option
@click.pass_obj
def model_card(where: tuple[Path, Sequence[str]], name: str, version: str, form: str, as_json: bool) -> None:
    """Print the model card of VERSION (a number or an alias, default champion) of model NAME: data, quality, gate, limits, lineage."""
    from dataclasses import asdict

    from tidemill.api import card

    with opened(*where) as platform:
        found = platform.registry.get(name, int(version) if version.isdigit() else version)
        made = card.model_card(platform.definitions, platform.ledger, found)
    if as_json:
        show_json(asdict(made))
    else:
        click.echo(card.html(made) if form == "html" else card.markdown(made), nl=False)

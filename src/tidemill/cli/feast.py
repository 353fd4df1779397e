"""tidemill feast: repositories of Feast, in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import INSTANT, json_option, opened, project_options
from tidemill.cli.output import plain, show_json


@click.group("feast")
def feast_command() -> None:
    """Read a Feast repository into a project that serves the same values, or write one from a project."""


@feast_command.command("import")
@json_option
@click.argument("repository", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--into", type=click.Path(path_type=Path), default=None, help="New folder for the project; default: REPOSITORY-tidemill here."
)
@click.option(
    "--python", default="", metavar="PATH", help="The Python that has Feast; default: .venv of the repository, or that of `feast`."
)
@click.option("--skip", multiple=True, metavar="NAME", help="Leave this object out on purpose; may be repeated.")
@click.option("--wider", is_flag=True, help="Serve 64-bit columns in full where Feast rounds them to 32 bits.")
def import_feast(repository: Path, as_json: bool, into: Path | None, python: str, skip: Sequence[str], wider: bool) -> None:
    """Write a project that serves what the Feast REPOSITORY serves. What cannot be kept is an error that lists all of it."""
    from tidemill.adapters.feast.importer import import_repository

    target = into or Path(f"{repository.resolve().name}-tidemill")
    report = import_repository(repository, target, python=python, skip=skip, wider=wider)
    if as_json:
        show_json(plain(report))
        return
    click.echo(f"wrote {report.project}/: {', '.join(report.files)}")
    click.echo(f"kept {report.views} feature views, {report.on_demand} on-demand views, {report.services} feature services")
    if report.skipped:
        click.echo(f"left out on purpose: {', '.join(report.skipped)}")
    click.echo("what differs from Feast (README.md has it too):")
    for note in report.notes:
        click.echo(f"  - {note}")
    click.echo(f"\n  cd {report.project}\n  tidemill ingest && tidemill features materialize\n  tidemill features serve --port 6566")


@feast_command.command("export")
@project_options
@json_option
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--at", "at_us", type=INSTANT, default=None, help="Export what was known at this time; default: now.")
@click.option("--skip", multiple=True, metavar="NAME", help="Leave this view, on-demand feature or service out; may be repeated.")
def export_feast(project: Path, overrides: Sequence[str], as_json: bool, folder: Path, at_us: int | None, skip: Sequence[str]) -> None:
    """Write a Feast repository with this project's features to the new FOLDER; Feast answers from it with equal values."""
    from tidemill.adapters.feast.exporter import export_repository
    from tidemill.core.instants import SECOND_US, format_instant

    with opened(project, overrides) as platform:
        now = platform.clock.now_us() if at_us is None else at_us
        report = export_repository(
            platform.definitions, platform.project, folder, tables=platform.tables, offline=platform.offline, now_us=now, skip=skip
        )
    if as_json:
        show_json(plain(report))
        return
    click.echo(f"wrote {report.folder}/: {', '.join(report.files)}")
    click.echo("what differs in Feast:")
    for note in report.notes:
        click.echo(f"  - {note}")
    first, last = (
        format_instant(us // SECOND_US * SECOND_US).rstrip("Z") for us in (report.first_us - SECOND_US, report.now_us + SECOND_US)
    )
    click.echo(f"\n  cd {report.folder}\n  feast apply && feast materialize {first} {last}")

"""tidemill build, export: ways out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidemill.cli.options import json_option, opened, project_options
from tidemill.cli.output import show_json

if TYPE_CHECKING:
    from tidemill.platform.root import Platform


@click.command("build")
@project_options
@json_option
@click.argument("service", required=False)
@click.option("--model", "version", type=int, default=None, help="Which version; default: the live one, else the champion.")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="New folder for the context.")
@click.option(
    "--wheels", is_flag=True, help="Also fetch the wheels of all packages: the image builds without an index, each checked by SHA-256."
)
def build_command(
    project: Path, overrides: Sequence[str], as_json: bool, service: str | None, version: int | None, to: Path, wheels: bool
) -> None:
    """Write the context of a container image that serves SERVICE: Dockerfile, locked requirements, model, code, bill of materials."""
    from tidemill.cicd.image import write_context

    with opened(project, overrides) as platform:
        facts = write_context(_image(platform, service, version), to, wheels=wheels)
    if as_json:
        show_json(facts)
    else:
        click.echo(f"✓ {facts['service']}, version {facts['model']['version']} → {to}; docker build -t {facts['service']} {to}")


def _image(platform: Platform, service: str | None, version: int | None) -> Any:
    from tidemill.cicd.image import Image
    from tidemill.core.graphs import refuse_graph
    from tidemill.platform.batch.predict import version_of

    found = platform.definitions.service(service)
    refuse_graph(found.name, found.graph, "an image or an export holds one model")
    chosen = platform.registry.get(found.name, version_of(platform, found, version))
    code = asdict(platform.builder.capture(platform.project))
    return Image(platform.project, found.name, chosen, platform.blobs.fetch(chosen.digest), code, _extras(platform))


def _extras(platform: Platform) -> tuple[str, ...]:
    """The extras behind the URLs of the stack that a server reads: an adapter's folder is its extra's name."""
    from importlib.metadata import entry_points

    found = set()
    for setting in ("online", "stream", "runtime"):
        scheme = getattr(platform.config.stack, setting).partition(":")[0]
        found |= {e.value.split(".")[2] for e in entry_points(group=f"tidemill.{setting}") if e.name == scheme}
    return tuple(sorted(found))


FRAMEWORKS = ("fastapi", "flask", "bentoml", "mlserver", "kserve", "seldon")


@click.command("export")
@project_options
@json_option
@click.argument("service")
@click.option("--to", "framework", type=click.Choice(FRAMEWORKS), required=True, help="The framework.")
@click.option("--model", "version", type=int, default=None, help="Which version; default: the live one, else the champion.")
@click.argument("folder", type=click.Path(path_type=Path))
def export_command(
    project: Path, overrides: Sequence[str], as_json: bool, service: str, framework: str, version: int | None, folder: Path
) -> None:
    """Write SERVICE's model as an application of another framework into FOLDER: its code, manifests and the model, without Tidemill."""
    from importlib.metadata import entry_points

    from tidemill.cicd.export import export_of, write_export

    with opened(project, overrides) as platform:
        found = _image(platform, service, version)
        export = export_of(found.service, found.version, found.model, platform.policy.trusted_types)
        files = entry_points(group="tidemill.exports")[framework].load()
        names = write_export(export, files, folder)
    if as_json:
        show_json(
            {"service": found.service, "version": found.version.version, "framework": framework, "folder": str(folder), "files": names}
        )
    else:
        click.echo(f"✓ {found.version.uri} → {folder} for {framework}: {', '.join(names)}")

"""Finding the flights example and making its data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import tidemill
from tidemill.core.errors import NotFoundError, UnavailableError


def flights(examples: Path | None) -> Path:
    """The folder of the flights project: in `examples`, this checkout or the current folder. Raises `NotFoundError`."""
    checkout = Path(tidemill.__file__).resolve().parents[2] / "examples"
    for folder in [examples] if examples else [checkout, Path("examples"), Path()]:
        if (folder / "flights" / "definitions.py").is_file():
            return (folder / "flights").resolve()
    raise NotFoundError(
        "the flights example is not in the wheel; clone the repository and run `make demo`, or name its folder with --examples"
    )


def make_data(project: Path) -> None:
    """Make the example's data unless it is there. Raises `UnavailableError` when it cannot be made."""
    if (project / "data" / "schedule").is_dir():
        return
    click.echo("making the data of 2013 (once) …", err=True)
    done = subprocess.run([sys.executable, "make_data.py", "--faults"], cwd=project, check=False)
    if done.returncode:
        raise UnavailableError("the data of the flights could not be made; see above, and `pip install 'tidemill[demo]'`")


def look_back(project: Path, overrides: Sequence[str], until_us: int) -> int:
    """What the replay can be asked at its end: every served value is checked, one prediction is named, and the next commands."""
    from tidemill.cli.options import opened
    from tidemill.cli.output import progress
    from tidemill.core.clock import ReplayClock
    from tidemill.retraining.parity import verify_served

    with opened(project, overrides, clock=ReplayClock(until_us)) as platform:
        service = platform.definitions.service()
        with progress("recomputing every served value offline") as bar:
            report = verify_served(platform.loop, service, progress=bar)
        some = next(platform.log.read(service.name, roles=("canary",)), None) or next(platform.log.read(service.name))
    mark = click.style("✓", fg="green") if not report.differences else click.style("✗", fg="red")
    click.echo(
        f"\n{mark} {report.rows:,} served rows recomputed offline at their own times: {report.differences:,} of {report.values:,} values differ"
    )
    where = _shortest(project)
    click.echo("\nnext:")
    click.echo(f"  tidemill up --project {where:<30} the console, the API and the model server")
    click.echo(f"  tidemill why {some.id} --project {where}")
    click.echo(f"  tidemill decisions --project {where:<23} every decision, with its evidence")
    return 1 if report.differences else 0


def _shortest(project: Path) -> str:
    """The project as a person would type it from here."""
    here = Path.cwd()
    return str(project.relative_to(here)) if project.is_relative_to(here) else str(project)

"""Finding the flights example and making its data."""

from __future__ import annotations

import subprocess
import sys
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
    done = subprocess.run([sys.executable, "make_data.py"], cwd=project, check=False)
    if done.returncode:
        raise UnavailableError("the data of the flights could not be made; see above, and `pip install 'tidemill[demo]'`")

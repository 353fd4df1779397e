"""Commands about a project as a whole: init, demo, doctor, completion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import json_option, override_option, project_option
from tidemill.cli.output import show_json
from tidemill.core.errors import NotFoundError

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


@click.command("init")
@click.argument("name", type=click.Path(path_type=Path))
def init_command(name: Path) -> None:
    """Write a small working project to the new folder NAME.

    It has two tables of daily CSV files, a feature view, a label and a service; its whole loop runs in half a minute.
    """
    from tidemill.platform.scaffold import write_project

    written = write_project(name)
    data = [p for p in written if p.startswith("data/")]
    click.echo(f"wrote {name}/: {len(written) - len(data)} files, and {len(data)} with data; read definitions.py first, then:\n")
    click.echo(f"  cd {name}")
    click.echo("  tidemill replay --from 2024-01-22 --to 2024-03-01 --policy never,on-drift")
    click.echo("  tidemill up")


@click.command("demo")
@override_option
@click.option("--from", "from_", default="2013-03-01", show_default=True, help="First instant to serve.")
@click.option("--to", default="2014-01-01", show_default=True, help="Where to stop.")
@click.option("--policy", default="on-drift,monthly,never", show_default=True, help="Policies to compare; the console shows the first.")
@click.option("--examples", type=click.Path(path_type=Path), help="The folder with flights/, when it is not in this checkout.")
def demo_command(overrides: Sequence[str], from_: str, to: str, policy: str, examples: Path | None) -> int:
    """Replay the New York flights of 2013 through the whole loop."""
    from tidemill.cli.demo import flights, look_back, make_data
    from tidemill.cli.retraining import replay_project
    from tidemill.core.instants import parse_instant

    project = flights(examples)
    make_data(project)
    code = replay_project(project, overrides, from_=from_, to=to, policies=policy.split(","), service=None, as_json=False)
    return code or look_back(project, overrides, parse_instant(to))


@click.command("doctor")
@project_option
@override_option
@json_option
@click.option("--fix", is_flag=True, help="Mend what a moved project needs; when nothing else uses it.")
def doctor_command(project: Path, overrides: Sequence[str], as_json: bool, fix: bool) -> int:
    """Check the installation, the configuration, the stack and the ledger; exit 1 when something is broken."""
    from tidemill.platform.doctor import examine

    checks = examine(project, overrides, fix=fix)
    if as_json:
        show_json(checks)
    else:
        for check in checks:
            mark, color = _MARKS[check.state]
            click.echo(f"{click.style(mark, fg=color)} {check.name:<14} {check.text}")
            if check.hint:
                click.echo(f"  {'':<14} → {check.hint}")
    return 1 if any(c.state == "failed" for c in checks) else 0


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def completion_command(shell: str | None) -> None:
    """Print the completion script of SHELL (bash, zsh or fish; default: yours).

    For bash: eval "$(tidemill completion bash)" in ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    from tidemill.cli.app import cli

    name = shell or Path(os.environ.get("SHELL", "bash")).name
    found = get_completion_class(name)
    if found is None:
        raise NotFoundError(f"there is no completion for {name!r}; known: bash, zsh, fish")
    click.echo(found(cli, {}, "tidemill", "_TIDEMILL_COMPLETE").source())

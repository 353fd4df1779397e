"""The `tidemill` command itself: which commands there are, and how errors leave the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

import tidemill
from tidemill.cli.exits import code_of, explain

COMMANDS = {
    "init": ("project", "Write a small working project."),
    "up": ("up", "Start console, API, model server, reconciler, trainer, follower."),
    "demo": ("project", "Replay the New York flights of 2013 through the whole loop."),
    "replay": ("retraining", "Try retraining policies on history."),
    "replay-traffic": ("traffic", "Answer logged requests again with another version."),
    "ingest": ("ingestion", "Take in new rows: audit, then publish."),
    "push": ("ingestion", "Push rows to a table's stream."),
    "validate": ("validation", "Infer, show and check table schemas."),
    "features": ("features", "List, explain, follow and verify features."),
    "feast": ("feast", "Import a Feast repository, or export one."),
    "train": ("training", "Run a service's pipeline now."),
    "tune": ("tuning", "Show studies and their trials."),
    "run": ("pipelines", "Run a pipeline, or explain what would run."),
    "runs": ("tracking", "List, show and compare runs."),
    "models": ("registry", "List and show model versions."),
    "gate": ("retraining", "Compare a model version with the champion."),
    "deploy": ("serving", "Put a model version behind its service."),
    "rollout": ("serving", "Show a service's deployments, or move them."),
    "graph": ("graph", "Show a service's inference graph and who answers in it."),
    "predict": ("serving", "Ask the model server."),
    "loadtest": ("loadtest", "Load a service with what it was really asked."),
    "build": ("delivery", "Write the context of a service's container image."),
    "export": ("delivery", "Write a service as another framework's application."),
    "labels": ("labels", "Show labels and their states; state labels."),
    "monitor": ("monitoring", "Show quality and drift over time."),
    "decisions": ("retraining", "List and show decisions with their evidence."),
    "why": ("retraining", "Trace one prediction back to its rows."),
    "reproduce": ("retraining", "Run a run again and compare."),
    "ledger": ("ledger", "Inspect and migrate the metadata store."),
    "doctor": ("project", "Check the installation, the stack and the ledger."),
    "completion": ("project", "Print the shell completion script."),
}


class LazyGroup(click.Group):
    """Imports a command's file when it is called; the help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order of the loop."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the file that defines `cmd_name`."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"tidemill.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        found.short_help = COMMANDS[cmd_name][1]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=2)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {' or '.join(near)}?" if near else "; see tidemill --help"))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done · 1 failed or rejected · 2 invalid input · 3 not found · 4 refused · 5 unavailable · 130 interrupted.",
)
@click.version_option(tidemill.__version__, message="tidemill %(version)s")
def cli() -> None:
    """The whole machine-learning lifecycle as one closed loop."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    sys.exit(run(sys.argv[1:] if args is None else args))


def run(args: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    try:
        result = cli.main(args=list(args), prog_name="tidemill", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:  # the process ends here; what is not ours is shown as a bug
        if os.environ.get("TIDEMILL_DEBUG") == "1":
            raise
        click.echo(explain(error), err=True)
        return code_of(error)
    return result if isinstance(result, int) else 0

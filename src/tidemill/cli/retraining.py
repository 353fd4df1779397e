"""tidemill replay, gate, decisions, why, reproduce: the loop, its decisions and answering for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import actor, json_option, limit_option, opened, project_options
from tidemill.cli.output import plain, progress, show_facts, show_json, show_rows
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant


@click.command("replay")
@project_options
@json_option
@click.option("--from", "from_", required=True, help="First instant to serve (ISO 8601, UTC without a zone).")
@click.option("--to", required=True, help="Where to stop; not served itself.")
@click.option(
    "--policy", default="on-drift", show_default=True, help="Retraining policies to compare, comma-separated; files of conf/retraining."
)
@click.option("--service", default=None, help="Which service, when there are several.")
def replay_command(project: Path, overrides: Sequence[str], as_json: bool, from_: str, to: str, policy: str, service: str | None) -> int:
    """Drive the loop over history, once for each policy, and compare what they would have been worth.

    The same functions run as in the present, with a replay clock. The policies share data and features; the ledger, the models and the
    predictions of the first one are the project's own and are what the console shows.
    """
    return replay_project(project, overrides, from_=from_, to=to, policies=policy.split(","), service=service, as_json=as_json)


def replay_project(
    project: Path, overrides: Sequence[str], *, from_: str, to: str, policies: Sequence[str], service: str | None, as_json: bool
) -> int:
    """Replay and print the comparison; the exit code."""
    from tidemill.platform.project import find_project
    from tidemill.platform.replays import replay

    names = [p.strip() for p in policies if p.strip()]
    if not names:
        raise InvalidError("--policy names no policy; write for example --policy never,on-drift")
    with progress("replaying") as bar:
        report = replay(
            find_project(project),
            from_us=parse_instant(from_),
            until_us=parse_instant(to),
            policies=names,
            overrides=overrides,
            service=service,
            progress=bar,
        )
    if as_json:
        show_json(report)
    else:
        from tidemill.cli.screen import show_replay

        show_replay(report)
    return 0


@click.command("gate")
@project_options
@json_option
@click.argument("version", type=int)
@click.option("--service", default=None, help="Which service, when there are several.")
def gate_command(project: Path, overrides: Sequence[str], as_json: bool, version: int, service: str | None) -> int:
    """Compare model VERSION with the champion on the same rows and record the decision. Exit 1 when it is rejected."""
    from tidemill.retraining.manual import judge

    with opened(project, overrides) as platform:
        decision = judge(platform.loop, platform.definitions.service(service), version)
    show_decision(plain(decision), as_json=as_json)
    return 0 if decision.outcome == "promote" else 1


@click.group("decisions", invoke_without_command=True)
@project_options
@json_option
@limit_option
@click.option("--service", default="", help="Only of this service.")
@click.option("--kind", default="", help="Only this kind: audit, trigger, gate, rollout, rollback, manual.")
@click.pass_context
def decisions_command(
    context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, limit: int, service: str, kind: str
) -> None:
    """List decisions, newest first."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    from tidemill.api.queries import decisions

    with opened(project, overrides) as platform, platform.ledger.read() as db:
        rows = decisions.listing(db, service=service, kind=kind, limit=min(limit, 200)).items
    show_rows(rows, ["at_us", "kind", "outcome", "subject", "actor", "id"], as_json=as_json, empty="no decisions yet")


@decisions_command.command("show")
@click.argument("decision")
@json_option
@click.pass_obj
def show_one_decision(where: tuple[Path, Sequence[str]], decision: str, as_json: bool) -> None:
    """Show one decision with its cause and its evidence."""
    from tidemill.api.queries import decisions

    with opened(*where) as platform, platform.ledger.read() as db:
        found = decisions.one_decision(db, decision)
    show_decision(found, as_json=as_json)


@decisions_command.command("reverse")
@click.argument("decision")
@json_option
@click.pass_obj
def reverse_decision(where: tuple[Path, Sequence[str]], decision: str, as_json: bool) -> None:
    """Take a decision back: a promotion puts the version before it live again, a rejection starts the rollout anew."""
    from tidemill.retraining.decisions import reverse

    with opened(*where) as platform:
        made = reverse(platform.loop, decision, actor())
    show_decision(plain(made), as_json=as_json)


def show_decision(decision: dict[str, Any], *, as_json: bool) -> None:
    """Print a decision; the evidence gets a block of its own."""
    if as_json:
        show_json(decision)
        return
    head: dict[str, Any] = {
        k: decision[k] for k in ("at_us", "kind", "service", "subject", "outcome", "actor", "cause", "reverses") if k in decision
    }
    show_facts(head, as_json=False, title=decision["id"])
    evidence = decision.get("evidence") or {}
    show_facts(evidence, as_json=False, title="evidence")
    for later in decision.get("reversed_by", ()):
        click.echo(f"taken back by {later['id']}: {later['outcome']}")


@click.command("why")
@project_options
@json_option
@click.argument("prediction")
@click.option("--rows", type=click.IntRange(0, 500), default=5, show_default=True, help="At most this many source rows of each view.")
def why_command(project: Path, overrides: Sequence[str], as_json: bool, prediction: str, rows: int) -> None:
    """Trace PREDICTION back: model, decision, run, training snapshots, each feature with its source rows, the label."""
    from tidemill.retraining.why import why

    with opened(project, overrides) as platform:
        found = why(platform.loop, prediction, rows=rows)
    if as_json:
        show_json(found)
        return
    from tidemill.cli.screen import show_why

    show_why(found)


@click.command("reproduce")
@project_options
@json_option
@click.argument("run")
def reproduce_command(project: Path, overrides: Sequence[str], as_json: bool, run: str) -> int:
    """Run RUN again and report: bit-equal, statistically equal, or the first input that differs. Exit 1 when it differs."""
    from tidemill.retraining.reproduce import reproduce

    with opened(project, overrides) as platform:
        found = reproduce(platform.loop, run)
    if as_json:
        show_json(found)
    else:
        show_facts({k: v for k, v in found.items() if k not in ("steps", "run")}, as_json=False, title=run)
        rows = [{**row, "": "=" if row.get("equal") else "≠"} for row in found.get("steps", ())]
        show_rows(rows, ["", "node", "recorded", "again"], as_json=False, title="steps", empty="no step was run again")
    return 1 if str(found.get("verdict", "")).startswith("differ") else 0

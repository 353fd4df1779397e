"""tidemill deploy, rollout and predict."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.batch import batch_command
from tidemill.cli.options import actor, json_option, limit_option, opened, project_options
from tidemill.cli.output import plain, show_facts, show_json, show_rows
from tidemill.cli.retraining import show_decision
from tidemill.core.errors import ConflictError, InvalidError

TOKEN_VARIABLE = "TIDEMILL_TOKEN"  # noqa: S105 - the name of a variable


@click.command("deploy")
@project_options
@json_option
@click.argument("version", type=int)
@click.option("--service", default=None, help="Which service, when there are several.")
@click.option("--now", is_flag=True, help="Live at once on your word, without gate, shadow and canary.")
@click.option("--reason", default="by hand", help="Kept with the decision.")
def deploy_command(
    project: Path, overrides: Sequence[str], as_json: bool, version: int, service: str | None, now: bool, reason: str
) -> None:
    """Roll out model VERSION: into shadow when the gate let it through, or live at once with --now. `tidemill rollout back` undoes it."""
    from tidemill.retraining import manual
    from tidemill.retraining.decisions import promote

    with opened(project, overrides) as platform:
        found = platform.definitions.service(service)
        if now:
            show_decision(plain(promote(platform.loop, found, version, actor(), reason=reason)), as_json=as_json)
            return
        manual.start(platform.loop, found, version)
        _show_rollout(platform, found.name, as_json=as_json, history=False)


@click.group("rollout", invoke_without_command=True)
@project_options
@json_option
@click.option("--service", default=None, help="Which service, when there are several.")
@click.option("--all", "history", is_flag=True, help="Also deployments that have ended.")
@click.pass_context
def rollout_command(
    context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, service: str | None, history: bool
) -> None:
    """Show which versions answer now, in which role and with which share."""
    context.obj = (project, overrides, service)
    if context.invoked_subcommand:
        return
    with opened(project, overrides) as platform:
        _show_rollout(platform, platform.definitions.service(service).name, as_json=as_json, history=history)


def _show_rollout(platform: Any, name: str, *, as_json: bool, history: bool) -> None:
    from tidemill.api.queries import services

    with platform.ledger.read() as db:
        rows = services.history(db, name, limit=100).items if history else services.current(db, name)
    show_rows(
        rows,
        ["role", "version", "weight", "stage", "started_us", "ended_us", "decision_id"],
        as_json=as_json,
        empty="nothing is deployed yet; `tidemill train`, then let `tidemill up` roll it out",
    )


@rollout_command.command("back")
@json_option
@click.pass_obj
def roll_back(where: tuple[Path, Sequence[str], str | None], as_json: bool) -> None:
    """Put the version live again that was live before; a rollout under way ends."""
    from tidemill.retraining import transitions
    from tidemill.retraining.decisions import reverse

    project, overrides, service = where
    with opened(project, overrides) as platform:
        name = platform.definitions.service(service).name
        live = transitions.live(platform.ledger, name)
        if live is None:
            raise ConflictError(
                f"nothing is live behind {name!r}, so there is nothing to take back; `tidemill rollout --all` shows what was"
            )
        decision = reverse(platform.loop, live.decision_id, actor())
    show_decision(plain(decision), as_json=as_json)


@click.group("predict", invoke_without_command=True)
@project_options
@json_option
@click.option("--service", default=None, help="Which service, when there are several.")
@click.option(
    "--request", "requests", multiple=True, metavar="JSON", help="One request, by the columns the service asks for; may be repeated."
)
@click.option("--file", type=click.File("rb"), default=None, help="Requests as JSON lines; - is standard input.")
@click.option("--url", default=None, help="The model server; default: the configured one on this machine.")
@click.option("--explain", is_flag=True, help="Show what each feature adds to each answer, if the model can say.")
@click.pass_context
def predict_command(
    context: click.Context,
    project: Path,
    overrides: Sequence[str],
    as_json: bool,
    service: str | None,
    requests: Sequence[str],
    file: Any,
    url: str | None,
    explain: bool,
) -> None:
    """Ask the running model server (`tidemill up`). The token is read from TIDEMILL_TOKEN."""
    context.obj = (project, overrides, service)
    if context.invoked_subcommand:
        return
    from tidemill.cli.client import infer
    from tidemill.platform.config import load_config
    from tidemill.platform.project import find_project, load_definitions
    from tidemill.platform.tls import address, trusted

    root = find_project(project)
    found = load_definitions(root).service(service)
    rows = [_request(text) for text in [*requests, *(file or ())] if text.strip()]
    if not rows:
        raise InvalidError(f"nothing to ask; --request takes JSON with {', '.join(found.request_columns)}")
    config = load_config(root, overrides)
    where, token = url or address(config, config.serving.host, config.serving.port), os.environ.get(TOKEN_VARIABLE, "")
    trusts = trusted(config, root) if where.startswith("https:") else None
    answers = infer(where, found, rows, token, explain=explain, trusts=trusts)
    show_rows(answers, ["id", "score", "version"], as_json=as_json)
    for answer in answers if explain and not as_json else ():
        added = sorted(answer["contributions"].items(), key=lambda item: (item[0] == "base", -abs(item[1])))
        show_rows([{"feature": n, "adds": f"{a:+.4f}"} for n, a in added], ["feature", "adds"], as_json=False, title=str(answer["id"]))


def _request(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidError(f"a request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidError(f"a request must be a JSON object, not {text!r}")
    return value


@predict_command.command("list")
@json_option
@limit_option
@click.pass_obj
def list_predictions(where: tuple[Path, Sequence[str], str | None], as_json: bool, limit: int) -> None:
    """List the last predictions of the service."""
    import numpy as np

    project, overrides, service = where
    with opened(project, overrides) as platform:
        found = platform.log.scores(platform.definitions.service(service).name)
    order = np.argsort(found["at_us"], kind="stable")[::-1][:limit]
    rows = [{k: _item(found[k][i]) for k in ("id", "score", "version", "role", "at_us")} for i in order]
    show_rows(rows, ["id", "score", "version", "role", "at_us"], as_json=as_json, empty="no predictions yet")


@predict_command.command("show")
@click.argument("prediction")
@click.pass_obj
def show_prediction(where: tuple[Path, Sequence[str], str | None], prediction: str) -> None:
    """Show what was answered for one id, with the features used, as JSON; `tidemill why` goes further back."""
    from tidemill.core.errors import NotFoundError

    project, overrides, _ = where
    with opened(project, overrides) as platform:
        found = platform.log.find(prediction)
    if not found:
        raise NotFoundError(f"no prediction has the id {prediction!r}; `tidemill predict list` shows the last ones")
    show_json(
        [
            {
                "id": p.id,
                "version": p.version,
                "role": p.role,
                "at_us": p.at_us,
                "score": p.score,
                **dict(zip(p.columns, p.values, strict=True)),
            }
            for p in found
        ]
    )


@predict_command.command("log")
@json_option
@click.option("--archive", "now", is_flag=True, help="Archive what is old enough now, instead of waiting for `tidemill up`.")
@click.pass_obj
def prediction_log(where: tuple[Path, Sequence[str], str | None], as_json: bool, now: bool) -> None:
    """Show where the predictions of the service are: in the fast log, and in the table that any engine reads."""
    from tidemill.retraining.loop import keep_predictions
    from tidemill.serving import table_of

    project, overrides, service = where
    with opened(project, overrides) as platform:
        name = platform.definitions.service(service).name
        moved = keep_predictions(platform.loop) if now else None
        found, settings = platform.log.scores(name), platform.config.serving
        snapshot = next((s for s in platform.tables.snapshots() if s.table == table_of(name)), None)
        archived = snapshot.rows if snapshot else 0
        at = found["at_us"]
        facts: dict[str, Any] = {
            "service": name,
            "predictions": len(at),
            "from_us": int(at.min()) if len(at) else None,
            "until_us": int(at.max()) if len(at) else None,
            "archived": archived,
            "table": table_of(name) if snapshot else None,
            "snapshot": snapshot.id if snapshot else None,
            "files": list(platform.tables.scan(table_of(name)).paths) if snapshot and as_json else None,
            "share": settings.log_share,
            "hot": settings.log_hot,
            "kept": settings.log_keep or "for ever",
        }
    facts |= {"moved": moved} if moved is not None else {}
    show_facts({k: v for k, v in facts.items() if v is not None}, as_json=as_json, title=f"predictions of {name}")


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


predict_command.add_command(batch_command)

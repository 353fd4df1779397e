"""tidemill labels: what is known, what has become of each prediction's label, and statements by named writers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidemill.cli.options import INSTANT, json_option, limit_option, opened, project_options
from tidemill.cli.output import show_json, show_rows
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import parse_instant

if TYPE_CHECKING:
    from tidemill.core.definitions import Label
    from tidemill.monitoring import Stated

Where = tuple[Path, Sequence[str], str | None]


@click.group("labels", invoke_without_command=True)
@project_options
@json_option
@limit_option
@click.option("--label", default=None, help="Which label, when there are several.")
@click.option("--at", "at_us", type=INSTANT, default=None, help="As known at this time; default now.")
@click.pass_context
def labels_command(
    context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, limit: int, label: str | None, at_us: int | None
) -> None:
    """List labels as known at a time, newest event first. `labels states` says which are pending, mature, censored or revised."""
    context.obj = (project, overrides, label)
    if context.invoked_subcommand:
        return
    with opened(project, overrides) as platform:
        chosen = _label(platform.definitions.labels, label)
        found = platform.labels.as_of(chosen.name, at_us if at_us is not None else platform.clock.now_us(), writers=chosen.writers)
    rows = found.sort_by([("event_us", "descending")]).slice(0, limit).to_pylist()
    empty = "no labels known yet; they come with the label's table"
    show_rows(rows, ["key", "value", "event_us", "known_us"], as_json=as_json, empty=empty)


@labels_command.command("show")
@click.argument("key")
@json_option
@click.pass_obj
def show_label(where: Where, key: str, as_json: bool) -> None:
    """Show everything that was ever said about KEY, oldest first."""
    project, overrides, label = where
    with opened(project, overrides) as platform:
        found = platform.labels.history(_label(platform.definitions.labels, label).name, key)
    rows = [{"value": r.value, "event_us": r.event_us, "known_us": r.known_us, "writer": r.writer} for r in found]
    show_rows(rows, ["value", "event_us", "known_us", "writer"], as_json=as_json, empty=f"nothing is known about {key!r} yet")


@labels_command.command("states")
@click.argument("service", required=False)
@click.option("--from", "from_us", type=INSTANT, default=0, help="Only predictions from then on.")
@click.option("--to", "until_us", type=INSTANT, default=None, help="Only predictions before.")
@click.option("--at", "at_us", type=INSTANT, default=None, help="As known at this time; default now.")
@click.option(
    "--state",
    type=click.Choice(["pending", "early", "mature", "censored", "revised"]),
    default=None,
    help="List the predictions in this state.",
)
@limit_option
@json_option
@click.pass_obj
def label_states(
    where: Where, service: str | None, from_us: int, until_us: int | None, at_us: int | None, state: str | None, limit: int, as_json: bool
) -> None:
    """Count what has become of the labels of a SERVICE's predictions, or list those in one --state.

    pending: none yet, still expected. early: there, may still change. mature: there, its time is over. censored: none, and its time is
    over; such a row counts as unknown, never as negative. revised: another value was stated before.
    """
    from tidemill import monitoring

    project, overrides, _ = where
    with opened(project, overrides) as platform:
        chosen, now = platform.definitions.service(service), platform.clock.now_us() if at_us is None else at_us
        given: dict[str, Any] = {"from_us": from_us, "until_us": until_us, "at_us": now}
        found = monitoring.label_states(chosen, log=platform.log, labels=platform.labels, **given)
    if state is None:
        show_json({"service": found.service, "label": found.label, **found.counts}) if as_json else show_rows(
            [{"state": name, "predictions": n} for name, n in found.counts.items()], ["state", "predictions"], as_json=False
        )
        return
    listed = [r for r in found.rows if (r.revised if state == "revised" else r.state == state)][:limit]
    rows = [
        {"prediction": r.key, "at_us": r.at_us, "state": r.state, "value": r.value, "known_us": r.known_us, "revised": r.revised}
        for r in listed
    ]
    show_rows(rows, ["prediction", "at_us", "state", "value", "known_us", "revised"], as_json=as_json, empty=f"no label is {state}")


@labels_command.command("push")
@click.option("--writer", required=True, help="Who says so; where the definition names writers, one of them.")
@click.option("--key", default=None, help="The prediction's id.")
@click.option("--value", type=float, default=None, help="The label; without it the label is taken back.")
@click.option("--event", default=None, metavar="TIME", help="When it happened; default: when it is known.")
@click.option("--known", default=None, metavar="TIME", help="When it was known; default: now.")
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="CSV, JSON or Parquet with columns key, value, event?, known?.",
)
@json_option
@click.pass_obj
def push_labels(
    where: Where, writer: str, key: str | None, value: float | None, event: str | None, known: str | None, file: Path | None, as_json: bool
) -> None:
    """State labels under a writer's name: one by --key and --value, or many from a --file. The same statement again adds nothing."""
    from tidemill import monitoring

    if (key is None) == (file is None):
        raise click.UsageError("give either --key or --file")
    records = _read(file) if file is not None else [{"key": key, "value": value, "event": event, "known": known}]
    stated = [_stated(record) for record in records]
    project, overrides, label = where
    with opened(project, overrides) as platform:
        chosen, now = _label(platform.definitions.labels, label), platform.clock.now_us()
        pieces = [stated[i : i + 10_000] for i in range(0, len(stated), 10_000)]
        rows = [row for piece in pieces for row in monitoring.label_statements(chosen, writer, piece, now_us=now)]
        new = platform.labels.write(rows)
    show_json({"new": new, "stated": len(rows)}) if as_json else click.echo(
        f"{new:,} new of {len(rows):,} statements of {chosen.name} by {writer}"
    )


def _read(file: Path) -> list[Mapping[str, Any]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            found: list[Mapping[str, Any]] = pq.read_table(file).to_pylist()
        elif file.suffix == ".json":
            found = json.loads(file.read_text(encoding="utf-8"))
        else:
            with file.open(newline="", encoding="utf-8") as lines:
                found = list(csv.DictReader(lines))
    except (ValueError, OSError) as error:
        raise InvalidError(f"{file.name} cannot be read: {error}; it must be .csv, .json or .parquet") from error
    if not isinstance(found, list) or not found or not all(isinstance(r, Mapping) and "key" in r for r in found):
        raise InvalidError(f"{file.name} has no rows with a column 'key'; its columns are key, value and maybe event and known")
    return found


def _stated(record: Mapping[str, Any]) -> Stated:
    from tidemill.monitoring import Stated

    value = record.get("value")
    try:
        number = None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise InvalidError(f"the label of {record['key']!r} is {value!r}; it must be a number, or empty to take it back") from None
    return Stated(str(record["key"]), number, _us(record.get("event")), _us(record.get("known")))


def _us(value: Any) -> int | None:
    if value in (None, ""):
        return None
    return parse_instant(value if isinstance(value, str) else value.isoformat())


def _label(known: Mapping[str, Label], name: str | None) -> Label:
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None or name not in known:
        raise not_found("label", name or "", known)
    return known[name]

"""tidemill features: what there is, why a value is what it is, whether offline and online agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidemill.cli import featurestate, streams
from tidemill.cli.options import INSTANT, actor, json_option, key_of, limit_option, opened, project_options
from tidemill.cli.output import cell, progress, show_json, show_rows
from tidemill.cli.trainingset import training_set_command
from tidemill.core.errors import ConfigError, not_found

if TYPE_CHECKING:
    from tidemill.features.sql.engines import Engine

_WORDS = {
    "used": "used",
    "not_yet_known": "not yet known",
    "not_yet_happened": "not yet happened",
    "out_of_window": "out of the window",
    "superseded": "superseded by a correction",
    "not_latest": "not the latest",
    "filtered": "left out by where",
}


@click.group("features", invoke_without_command=True)
@project_options
@json_option
@click.pass_context
def features_command(context: click.Context, project: Path, overrides: Sequence[str], as_json: bool) -> None:
    """List features: full name, how it is computed, from which table, how far its online state lags behind."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    from tidemill.api.queries import features
    from tidemill.api.queries.times import as_of

    with opened(project, overrides) as platform, platform.ledger.read() as db:
        views = features.views(db, platform.definitions, as_of(db, platform.clock))
    if as_json:
        show_json(views)
        return
    rows = [
        {"feature": f["name"], "is": f["spelled"], "table": v["table"], "by": ", ".join(v["keys"]), "lag": v["lag"]}
        for v in views
        for f in v["features"]
    ]
    show_rows(rows, ["feature", "is", "table", "by", "lag"], as_json=False, empty="definitions.py defines no feature views yet")


@features_command.command("explain")
@click.argument("view")
@click.option("--key", "keys", required=True, metavar="JSON", help='The entity key, for example \'{"origin": "JFK"}\'.')
@click.option("--at", "at_us", type=INSTANT, required=True, help="The spine row's time (ISO 8601, UTC without a zone).")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="At most this many source rows.")
@click.option("--reveal", is_flag=True, help="Show personal columns in clear; the audit log keeps who did.")
@json_option
@click.pass_obj
def explain_feature(where: tuple[Path, Sequence[str]], view: str, keys: str, at_us: int, limit: int, reveal: bool, as_json: bool) -> None:
    """Show which source rows made the features of VIEW for one key at one time, and which did not count and why."""
    from dataclasses import replace

    from tidemill.api.queries.personal import note_revealed
    from tidemill.core.privacy import hide

    with opened(*where) as platform:
        views = platform.definitions.views
        if view not in views:
            raise not_found("feature view", view, views)
        row = {**key_of(keys, views[view].keys), "at": at_us}
        found = platform.offline.explain(row, views[view], platform.tables.scan(views[view].table.name), limit=limit)
        table = platform.definitions.tables.get(views[view].table.name, views[view].table)
        if reveal and table.personal:
            note_revealed(platform.ledger, view, actor(), at_us=platform.clock.now_us())
        elif not reveal:
            found = [replace(r, values=hide(r.values, [table])) for r in found]
    rows = [{"use": r.use if as_json else _WORDS[r.use], "event_us": r.event_us, "known_us": r.known_us, **r.values} for r in found]
    if as_json:
        show_json(rows)
        return
    wanted = {a.column for a in views[view].aggregates if a.column}
    columns = ["use", "event_us", "known_us", *sorted(wanted & set(rows[0] if rows else ()))]
    show_rows(rows, columns, as_json=False, empty=f"table {views[view].table.name!r} has no rows of this key near that time")


@features_command.command("verify")
@click.argument("service", required=False)
@click.option("--from", "from_us", type=INSTANT, default=0, help="Only predictions from then on.")
@click.option("--to", "until_us", type=INSTANT, default=None, help="Only predictions before.")
@click.option("--share", type=float, default=1.0, show_default=True, help="Of the rows, chosen by their ids: 0.01 is one of a hundred.")
@json_option
@click.pass_obj
def verify_features(
    where: tuple[Path, Sequence[str]], service: str | None, from_us: int, until_us: int | None, share: float, as_json: bool
) -> int:
    """Recompute every served row offline at its own time and compare column by column. Exit 1 when anything differs."""
    from tidemill.retraining.parity import verify_served

    with opened(*where) as platform, progress("verifying") as bar:
        report = verify_served(
            platform.loop, platform.definitions.service(service), from_us=from_us, until_us=until_us, share=share, progress=bar
        )
    if as_json:
        show_json(report)
    else:
        mark = click.style("✓", fg="green") if not report.differences else click.style("✗", fg="red")
        click.echo(f"{mark} {report.service}: {report.rows:,} rows, {report.values:,} values, {report.differences:,} differences")
        for column, reason in report.excluded.items():
            click.echo(f"  {column} was not compared: {reason}")
        if report.degraded:
            click.echo(f"  {report.degraded:,} rows were answered while features could not be read; they are left out")
        columns = [{"column": name, "differences": n} for name, n in report.by_column.items() if n]
        if columns:
            show_rows(columns, ["column", "differences"], as_json=False)
            for example in report.examples:
                served, expected = cell("", example.served), cell("", example.expected)
                click.echo(f"  {example.prediction} {example.column}: served {served}, offline {expected}; looks like {example.likely}")
    return 1 if report.differences else 0


@features_command.command("sql")
@click.argument("view")
@click.option("--engine", type=click.Choice(["duckdb", "spark"]), default="duckdb", show_default=True, help="In whose dialect.")
@click.pass_obj
def sql_of_view(where: tuple[Path, Sequence[str]], view: str, engine: Engine) -> None:
    """Print the point-in-time join of VIEW as SQL that runs on the published table and a table `spine` of keys and times."""
    try:
        from tidemill.features.sql.compile import script
    except ModuleNotFoundError as error:
        raise ConfigError("'features sql' needs an extra: pip install 'tidemill[sql]'") from error

    with opened(*where) as platform:
        views = platform.definitions.views
        if view not in views:
            raise not_found("feature view", view, views)
        text = script(views[view], platform.tables.scan(views[view].table.name), engine)
    click.echo(text, nl=False)


@features_command.command("serve")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port, instead of the configured one of the model server.")
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Processes, instead of the configured number.")
@click.pass_obj
def serve_features(where: tuple[Path, Sequence[str]], port: int | None, workers: int | None) -> None:
    """Serve features alone, without models, by Feast's HTTP protocol until Ctrl-C. `tidemill up` serves the same routes beside the models."""
    from tidemill.cli.up import first_token
    from tidemill.cli.web import serve_models
    from tidemill.platform.tls import address

    project, overrides = where
    given = [*overrides, *([f"serving.port={port}"] if port else []), *([f"serving.workers={workers}"] if workers else [])]
    with opened(project, given) as platform:
        serving, secret = platform.config.serving, first_token(platform)
        click.echo(f"features {address(platform.config, serving.host, serving.port)}/get-online-features")
        if secret:
            click.echo(f"token    {click.style(secret, bold=True)}   shown only now; it is stored as a hash")
    serve_models(project, given, "features")


@features_command.command("search")
@click.argument("text", nargs=-1)
@click.option("--kind", type=click.Choice(["table", "feature view", "feature", "label", "service"]), default=None, help="Only these.")
@limit_option
@json_option
@click.pass_obj
def search_features(where: tuple[Path, Sequence[str]], text: Sequence[str], kind: str | None, limit: int, as_json: bool) -> None:
    """Find tables, views, features, labels and services by name, description, owner, tag or column; every word counts as a beginning."""
    from tidemill import catalog

    with opened(*where) as platform:
        there = {(e.kind, e.name): e for e in catalog.entries(platform.definitions)}
        platform.catalog.put(there.values())
        found = [e for e in platform.catalog.search(" ".join(text), kind=kind, limit=1000) if (e.kind, e.name) in there][:limit]
    rows = [
        {
            "kind": e.kind,
            "name": e.name,
            "is": e.description,
            "owner": e.facts.get("owner"),
            **({"facts": dict(e.facts)} if as_json else {}),
        }
        for e in found
    ]
    show_rows(rows, ["kind", "name", "is", "owner"], as_json=as_json, empty="nothing in definitions.py has all of these words")


for _command in (*featurestate.COMMANDS, *streams.COMMANDS, training_set_command):
    features_command.add_command(_command)

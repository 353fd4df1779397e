"""tidemill predict batch: scores for the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import INSTANT, json_option, opened
from tidemill.cli.output import progress, show_json


@click.command("batch")
@json_option
@click.argument("service", required=False)
@click.option(
    "--table", default="", help="A table of the project, or a Parquet or CSV file with a column at; default: the service's spine."
)
@click.option("--to", default="", help="A table, or a .parquet file; default: the table predictions_SERVICE.")
@click.option("--model", "version", type=int, default=None, help="Which version; default: the live one, else the champion.")
@click.option("--from", "from_us", type=INSTANT, default=None, help="No row of an earlier time (ISO 8601).")
@click.option("--until", "until_us", type=INSTANT, default=None, help="No row of a later time; default: now.")
@click.option("--rows", type=click.IntRange(1), default=250_000, show_default=True, help="Scored and written at a time.")
@click.option("--restart", is_flag=True, help="Begin anew instead of going on behind a killed batch.")
@click.pass_obj
def batch_command(
    where: tuple[Path, Sequence[str], str | None], as_json: bool, service: str | None, table: str, to: str, version: int | None,
    from_us: int | None, until_us: int | None, rows: int, restart: bool,
) -> None:  # fmt: skip
    """Score the rows of a table, each with the features known at its own time, as the server would have answered. The same command goes on after a kill."""
    from tidemill.platform.batch import Asked, predict_batch

    project, overrides, named = where
    asked = Asked(service or named or "", table, to, version, from_us, until_us, rows)
    with opened(project, overrides) as platform, progress("predicting") as bar:
        done = predict_batch(platform, asked, restart=restart, progress=bar)
    if as_json:
        show_json(done)
        return
    again = f", {done['resumed_rows']:,} of them before" if done["resumed_rows"] else ""
    click.echo(
        f"✓ {done['rows']:,} rows of {done['table']} scored by version {done['model_version']}{again}, in {done['seconds']:.1f} s; they are in {done['to']}"
    )

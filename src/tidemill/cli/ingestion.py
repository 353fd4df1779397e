"""tidemill ingest, push: rows come in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from tidemill.cli.options import INSTANT, json_option, limit_option, opened, project_options
from tidemill.cli.output import show_json, show_rows
from tidemill.core.errors import InvalidError, not_found


@click.group("ingest", invoke_without_command=True)
@project_options
@json_option
@click.option("--table", "names", multiple=True, help="Only this table; may be repeated.")
@click.option("--until", type=INSTANT, help="Only batches that had come by then (ISO 8601, UTC without a zone).")
@click.pass_context
def ingest_command(
    context: click.Context, project: Path, overrides: Sequence[str], as_json: bool, names: Sequence[str], until: int | None
) -> int:
    """Take in every batch that has come: to a branch, audit, then publish or reject. Exit 1 when a batch is rejected."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return 0
    with opened(project, overrides) as platform:
        reports = _ingest(platform, names, until)
    rows = [_report(r) for r in reports]
    show_rows(rows, ["table", "batch", "status", "rows", "anomalies"], as_json=as_json, empty="no new batches; everything is ingested")
    if not as_json:
        for row in rows:
            for anomaly in row["anomaly_list"]:
                click.echo(
                    f"  {row['batch']}: {anomaly['column']} breaks {anomaly['rule']}: expected {anomaly['expected']}, got {anomaly['observed']}"
                )
    return 1 if any(r["status"] == "rejected" for r in rows) else 0


def _ingest(platform: Any, names: Sequence[str], until: int | None) -> list[Any]:
    from tidemill.ingestion import ingest

    sources = platform.sources
    for name in names:
        if name not in sources:
            raise not_found("table", name, sources)
    out: list[Any] = []
    for name in names or sources:
        table = platform.definitions.tables[name]
        out += ingest(
            table,
            sources[name],
            tables=platform.tables,
            audit=platform.auditor,
            ledger=platform.ledger,
            clock=platform.clock,
            until_us=until,
        )
    return out


def _report(report: Any) -> dict[str, Any]:
    anomalies = [
        {"column": a.column, "rule": a.rule, "expected": a.expected, "observed": a.observed, "rows": a.rows} for a in report.anomalies
    ]
    return {
        "table": report.table,
        "batch": report.batch_id,
        "status": report.status,
        "rows": report.rows,
        "snapshot": report.snapshot_id,
        "anomalies": len(anomalies),
        "anomaly_list": anomalies,
    }


@ingest_command.command("list")
@json_option
@limit_option
@click.option("--table", default="", help="Only this table.")
@click.option("--status", type=click.Choice(["published", "rejected"]), default=None, help="Only these.")
@click.pass_obj
def list_batches(where: tuple[Path, Sequence[str]], as_json: bool, limit: int, table: str, status: str | None) -> None:
    """List batches, newest first."""
    from tidemill.api.queries import data

    with opened(*where) as platform, platform.ledger.read() as db:
        rows = data.batches(db, table=table, status=status or "", limit=min(limit, 200)).items
    for row in rows:
        row["found"] = len(row["anomalies"] or [])
    show_rows(
        rows,
        ["id", "table_name", "status", "rows", "found", "at_us"],
        as_json=as_json,
        empty="no batches yet; `tidemill ingest` takes them in",
    )


@ingest_command.command("show")
@json_option
@click.argument("batch")
@click.option("--rows", type=click.IntRange(0, 1000), default=5, show_default=True, help="Show so many of a rejected batch's rows.")
@click.pass_obj
def show_batch(where: tuple[Path, Sequence[str]], as_json: bool, batch: str, rows: int) -> None:
    """Show one batch, its anomalies and, if it was rejected, its rows."""
    from tidemill.api.queries import data
    from tidemill.ingestion import rejected

    with opened(*where) as platform:
        with platform.ledger.read() as db:
            found = data.batch(db, batch)
        sample: list[dict[str, Any]] = []
        if found["status"] == "rejected" and rows:
            sample = rejected(found["table_name"], batch, tables=platform.tables, ledger=platform.ledger).slice(0, rows).to_pylist()
    if as_json:
        show_json({**found, "rejected_rows": sample})
        return
    click.secho(f"{found['table_name']} {found['id']}: {found['status']}, {found['rows']} rows", bold=True)
    show_rows(found["anomalies"] or [], ["column", "rule", "expected", "observed", "rows"], as_json=False, empty="no anomalies")
    if sample:
        show_rows(sample, list(sample[0]), as_json=False, title="first rows")


@click.command("push")
@project_options
@click.argument("table")
@click.argument("file", type=click.File("rb"), default="-")
def push_command(project: Path, overrides: Sequence[str], table: str, file: IO[bytes]) -> None:
    """Push rows of TABLE, a JSON object on each line of FILE (standard input without one), to the stream that the table names.

    They are durable when it ends: `tidemill features follow` takes them online, `tidemill ingest` into the table.
    """
    from tidemill.ingestion.push import MAX_ROWS, push

    count = 0
    with opened(project, overrides) as platform:
        if table not in platform.definitions.tables:
            raise not_found("table", table, platform.definitions.tables)
        topics = list(platform.topics.get(table, {}).values())
        if not topics:
            raise InvalidError(f"table {table!r} takes no pushed rows; give it a further source: source=(…, 'push:')")
        lines = enumerate(iter(file.readline, b""), 1)
        while rows := [_row(line, number) for number, line in islice(lines, MAX_ROWS)]:
            push(platform.definitions.tables[table], rows, topics[0])
            count += len(rows)
    click.echo(f"{count:,} rows pushed to {table}")


def _row(line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidError(f"line {number} is not JSON: {error}; write an object on each line") from error
    if not isinstance(row, dict):
        raise InvalidError(f'line {number} is no object; write for example {{"key": 1}}')
    return row

"""tidemill validate: what tables should look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import json_option, opened, project_options
from tidemill.cli.output import show_json, show_rows
from tidemill.core.errors import NotFoundError, not_found


@click.group("validate", invoke_without_command=True)
@project_options
@json_option
@click.pass_context
def validate_command(context: click.Context, project: Path, overrides: Sequence[str], as_json: bool) -> None:
    """List the tables' schemas: how many rules each has and where they come from."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    with opened(project, overrides) as platform:
        found = {name: platform.schemas.find(name) for name in platform.definitions.tables}
    rows = [
        {
            "table": name,
            "columns": len(s.columns) if s else None,
            "unique": ", ".join(s.unique) if s else "",
            "from": s.inferred_from if s else "none yet",
        }
        for name, s in found.items()
    ]
    show_rows(rows, ["table", "columns", "unique", "from"], as_json=as_json, empty="definitions.py defines no tables yet")


@validate_command.command("show")
@click.argument("table")
@json_option
@click.pass_obj
def show_schema(where: tuple[Path, Sequence[str]], table: str, as_json: bool) -> None:
    """Show the rules of TABLE, column by column."""
    with opened(*where) as platform:
        _known(platform, table)
        schema = platform.schemas.find(table)
    if schema is None:
        raise NotFoundError(f"table {table!r} has no schema yet; `tidemill validate infer {table}` makes one from its rows")
    if as_json:
        show_json(schema)
        return
    rows = [
        {
            "column": c.name,
            "kind": c.kind,
            "required": c.required,
            "nulls at most": c.null_fraction,
            "low": c.low,
            "high": c.high,
            "domain": ", ".join(c.domain[:6]) + (" …" if len(c.domain) > 6 else "") if c.domain else None,
        }
        for c in schema.columns
    ]
    show_rows(rows, ["column", "kind", "required", "nulls at most", "low", "high", "domain"], as_json=False)


@validate_command.command("infer")
@click.argument("table")
@click.option("--overwrite", is_flag=True, help="Replace a schema that a person has edited.")
@click.pass_obj
def infer_schema(where: tuple[Path, Sequence[str]], table: str, overwrite: bool) -> None:
    """Infer the schema of TABLE from its published rows and save it under schemas/, where you edit it."""
    from tidemill.validation import infer

    with opened(*where) as platform:
        definition = _known(platform, table)
        schema = infer(table, _rows(platform, table), unique=definition.keys)
        platform.schemas.save(schema, overwrite=overwrite)
    click.echo(f"schemas/{table}.yaml: {len(schema.columns)} columns, {schema.inferred_from}; read it and make it yours")


@validate_command.command("check")
@click.argument("table")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@json_option
@click.pass_obj
def check_rows(where: tuple[Path, Sequence[str]], table: str, file: Path | None, as_json: bool) -> int:
    """Check FILE (Parquet, CSV or JSON; default: the published rows) against the schema of TABLE. Exit 1 when a rule is broken."""
    from tidemill.platform.files import rows_of
    from tidemill.validation import check

    with opened(*where) as platform:
        definition = _known(platform, table)
        schema = platform.schemas.find(table)
        if schema is None:
            raise NotFoundError(f"table {table!r} has no schema yet; `tidemill validate infer {table}` makes one from its rows")
        rows = _rows(platform, table) if file is None else rows_of(file, definition)
        audit = check(rows, schema, platform.profiler)
    anomalies = [
        {"column": a.column, "rule": a.rule, "expected": a.expected, "observed": a.observed, "rows": a.rows} for a in audit.anomalies
    ]
    show_rows(
        anomalies, ["column", "rule", "expected", "observed", "rows"], as_json=as_json, empty=f"{rows.num_rows:,} rows keep every rule"
    )
    return 0 if audit.passed else 1


def _known(platform: Any, table: str) -> Any:
    if table not in platform.definitions.tables:
        raise not_found("table", table, platform.definitions.tables)
    return platform.definitions.tables[table]


def _rows(platform: Any, table: str) -> Any:
    import pyarrow.dataset as ds

    scan = platform.tables.scan(table)
    if not scan.paths:
        raise NotFoundError(f"table {table!r} has no published rows yet; `tidemill ingest` takes them in")
    return ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table()

"""tidemill ledger: the metadata store itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import json_option, limit_option, opened, project_options
from tidemill.cli.output import show_facts, show_rows


@click.group("ledger", invoke_without_command=True)
@project_options
@json_option
@click.pass_context
def ledger_command(context: click.Context, project: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Show where the ledger is and how many rows each of its tables has."""
    context.obj = (project, overrides)
    if context.invoked_subcommand:
        return
    import sqlalchemy as sa

    from tidemill.ledger import schema

    with opened(project, overrides) as platform, platform.ledger.read() as db:
        counts = {t.name: db.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in schema.metadata.sorted_tables}
        facts = {"url": sa.make_url(platform.config.stack.ledger).render_as_string(hide_password=True), **counts}
    show_facts(facts, as_json=as_json, title="ledger")


@ledger_command.command("events")
@json_option
@limit_option
@click.option("--kind", default="", help="Only this kind.")
@click.option("--subject", default="", help="Only about this.")
@click.pass_obj
def list_events(where: tuple[Path, Sequence[str]], as_json: bool, limit: int, kind: str, subject: str) -> None:
    """List the audit log, newest first."""
    from tidemill.api.queries import events

    with opened(*where) as platform, platform.ledger.read() as db:
        rows = events.newest(db, kind=kind, subject=subject, limit=min(limit, 200)).items
    show_rows(rows, ["seq", "at_us", "kind", "subject", "actor", "body"], as_json=as_json, empty="nothing has happened yet")


@ledger_command.command("upgrade")
@click.pass_obj
def upgrade_ledger(where: tuple[Path, Sequence[str]]) -> None:
    """Bring the ledger's schema to this version; doing it again changes nothing."""
    from tidemill.ledger.migrate import upgrade
    from tidemill.platform.config import load_config
    from tidemill.platform.project import find_project

    root = find_project(where[0])
    upgrade(load_config(root, where[1]).stack.ledger)
    click.echo("the ledger is up to date")

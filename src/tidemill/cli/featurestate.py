"""tidemill features materialize, publish, versions, deprecate: the online state of views and its versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import INSTANT, actor, json_option, opened
from tidemill.cli.output import progress, show_json, show_rows
from tidemill.core.instants import format_instant

Where = tuple[Path, Sequence[str]]


@click.command("materialize")
@click.argument("views", nargs=-1)
@click.option("--from", "from_us", type=INSTANT, default=None, help="Push rows known from then on again, also those that were taken.")
@click.option("--to", "until_us", type=INSTANT, default=None, help="Leave rows known later for another time.")
@click.option("--no-publish", is_flag=True, help="Build new versions, and let the old ones be read until `features publish`.")
@click.option("--explain", is_flag=True, help="Say what is stale and why; change nothing.")
@json_option
@click.pass_obj
def materialize_command(
    where: Where, views: Sequence[str], from_us: int | None, until_us: int | None, no_publish: bool, explain: bool, as_json: bool
) -> None:
    """Bring the online state of VIEWS (all without any) up to date with what is published; doing it again changes nothing.

    A new or changed view is built beside what is served, from the rows that still count, and touches no other view. A killed run goes
    on where it was.
    """
    from tidemill.retraining import features

    with opened(*where) as platform:
        if explain:
            _explain(features.stale(platform.loop, views or None), as_json=as_json)
            return
        with progress("materializing") as bar:
            done = features.feed(platform.loop, views or None, from_us=from_us, until_us=until_us, publish=not no_publish, progress=bar)
    rows = [
        {
            "view": f.view,
            "because": f.why,
            "rows": f.rows,
            "now": "published" if f.published else "up to date" if f.why == "new batches" else "complete",
        }
        for f in done
    ]
    show_rows(rows, ["view", "because", "rows", "now"], as_json=as_json, empty="the online store is up to date with the published tables")


def _explain(found: Sequence[Any], *, as_json: bool) -> None:
    rows = [{"view": s.view, "because": s.why, "table": s.table, "batches": s.batches, "files": s.files, "digest": s.digest} for s in found]
    columns = ["view", "because", "table", "batches", "files"]
    show_rows(rows, columns, as_json=as_json, empty="nothing is stale")


@click.command("publish")
@click.argument("view")
@click.pass_obj
def publish_command(where: Where, view: str) -> None:
    """Let the complete version of VIEW be read from now on, all of it at once; who is pinned to an older one goes on reading that."""
    from tidemill.retraining import features

    with opened(*where) as platform:
        click.echo(f"{features.publish(platform.loop, view)} is published")


@click.command("versions")
@click.argument("view", required=False)
@json_option
@click.pass_obj
def versions_command(where: Where, view: str | None, as_json: bool) -> None:
    """List the versions of VIEW (all without one): what is served, what is deprecated, and who reads each."""
    from tidemill.api.queries import versions

    with opened(*where) as platform, platform.ledger.read() as db:
        rows = versions.listing(db, platform.definitions, view)
    if as_json:
        show_json(rows)
        return
    for row in rows:
        row["read by"] = ", ".join(r["model"] or r["service"] for r in row["readers"]) or "nobody"
    show_rows(rows, ["version", "state", "at_us", "known_us", "read by", "deprecated"], as_json=False, empty="no view has been seen yet")


@click.command("deprecate")
@click.argument("view", metavar="VIEW[@NUMBER]")
@click.option("--reason", default="", help="Why, and what to use instead.")
@json_option
@click.pass_obj
def deprecate_command(where: Where, view: str, reason: str, as_json: bool) -> None:
    """Say that a view, or one version of it, should not be read any more, and list who still does. Nothing stops being served."""
    from tidemill import features
    from tidemill.api.queries import versions

    with opened(*where) as platform:
        features.number(platform.ledger, platform.definitions.views.values(), at_us=platform.clock.now_us(), actor=actor())
        chosen = features.deprecate(platform.ledger, view, reason, at_us=platform.clock.now_us(), actor=actor())
        with platform.ledger.read() as db:
            found = [r for v in chosen for r in versions.readers(db, platform.definitions, v.digest)]
        for reader in found:
            if reader["model"]:
                reader["last_us"] = versions.last_read_us(platform.log, reader, platform.clock.now_us())
    if not as_json:
        click.echo(f"{', '.join(v.name for v in chosen)} deprecated")
    show_rows(found, ["version", "service", "model", "role", "last_us"], as_json=as_json, empty="nobody reads it")


@click.command("skew")
@click.argument("service", required=False)
@click.option("--from", "from_us", type=INSTANT, default=None, help="First day; a week before the last one by default.")
@click.option("--to", "until_us", type=INSTANT, default=None, help="End of the last day; that of the newest served rows by default.")
@click.option("--threshold", type=float, default=0.1, show_default=True, help="Index above what chance explains that is skew.")
@json_option
@click.pass_obj
def skew_command(where: Where, service: str | None, from_us: int | None, until_us: int | None, threshold: float, as_json: bool) -> int:
    """Compare the distribution of each input as served with what training sees of the same days. Exit 1 when one is skewed."""
    from tidemill.retraining import skew

    with opened(*where) as platform:
        found = skew.compare(platform.loop, platform.definitions.service(service), from_us=from_us, until_us=until_us, threshold=threshold)
    if as_json:
        show_json(found)
        return 1 if found.skewed else 0
    mark = click.style("✗", fg="red") if found.skewed else click.style("✓", fg="green")
    days = f"{format_instant(found.from_us)[:10]} to {format_instant(found.until_us)[:10]}"
    click.echo(
        f"{mark} {found.service}, {days}: {found.served:,} rows served, {found.trained:,} as trained, {len(found.skewed)} inputs skewed"
    )
    rows = [
        {
            "input": c.column,
            "index": round(c.psi, 3),
            "by chance": round(c.chance, 3),
            "nulls served": f"{c.nulls_served:.1%}",
            "trained": f"{c.nulls_trained:.1%}",
            "skew": skew.in_words(c) if c.skewed else "",
        }
        for c in found.columns
    ]
    show_rows(rows, list(rows[0]) if rows else [], as_json=False)
    return 1 if found.skewed else 0


COMMANDS = (skew_command, materialize_command, publish_command, versions_command, deprecate_command)

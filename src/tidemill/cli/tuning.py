"""tidemill tune: studies and trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import json_option, limit_option, opened, project_options
from tidemill.cli.output import show_rows, sparkline
from tidemill.core.errors import not_found


@click.command("tune")
@project_options
@json_option
@limit_option
@click.argument("study", required=False)
def tune_command(project: Path, overrides: Sequence[str], as_json: bool, limit: int, study: str | None) -> None:
    """List studies, or the trials of one STUDY, best first. A pipeline searches with `tm.tune(…)`; `tidemill train` runs it."""
    import sqlalchemy as sa

    from tidemill.ledger import schema
    from tidemill.ledger.store import from_json

    t = schema.trial.c
    with opened(project, overrides) as platform, platform.ledger.read() as db:
        rows = [dict(r) for r in db.execute(sa.select(schema.trial).order_by(t.at_us.desc(), t.study, t.number).limit(10_000)).mappings()]
    for row in rows:
        row["params"] = from_json(row["params"])
    studies = list(dict.fromkeys(r["study"] for r in rows))
    if study is not None:
        if study not in studies:
            raise not_found("study", study, studies)
        trials = sorted((r for r in rows if r["study"] == study), key=lambda r: (r["value"] is None, r["value"] or 0.0))
        show_rows(trials[:limit], ["number", "value", "state", "params"], as_json=as_json)
        return
    listed = []
    for name in studies[:limit]:
        trials = [r for r in rows if r["study"] == name]
        done = [r["value"] for r in trials if r["value"] is not None]
        best = min(trials, key=lambda r: (r["value"] is None, r["value"] or 0.0))
        course = sparkline([r["value"] for r in sorted(trials, key=lambda r: r["number"])])
        listed.append(
            {
                "study": name,
                "trials": len(trials),
                "best": min(done, default=None),
                "params": best["params"],
                "course": course,
                "at_us": best["at_us"],
            }
        )
    show_rows(
        listed,
        ["study", "trials", "best", "course", "params", "at_us"],
        as_json=as_json,
        empty="no studies yet; a pipeline that calls tm.tune makes one",
    )

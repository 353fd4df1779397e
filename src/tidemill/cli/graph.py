"""tidemill graph: what a service composes, and which versions answer in it now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.options import json_option, opened, project_options
from tidemill.cli.output import show_json, show_rows


@click.command("graph")
@project_options
@json_option
@click.argument("service", required=False)
def graph_command(project: Path, overrides: Sequence[str], as_json: bool, service: str | None) -> None:
    """Show the inference graph of SERVICE: its nodes, each with the version that answers now. Without a name: the service, or all that have a graph."""
    from tidemill.api.queries import graphs
    from tidemill.core.graphs import graph_version

    with opened(project, overrides) as platform:
        defined = platform.definitions.services
        chosen = [platform.definitions.service(service)] if service else [s for s in defined.values() if s.graph is not None]
        with platform.ledger.read() as db:
            found = {s.name: graphs.nodes(db, platform.registry, s) for s in chosen}
    if as_json:
        versions = {s.name: graph_version(s.graph) for s in chosen if s.graph is not None}
        show_json([{"service": name, "version": versions.get(name), "nodes": rows} for name, rows in found.items()])
        return
    rows = [
        {"service": name, **row, "node": "  " * row["depth"] + row["node"], "version": row["problem"] or row["version"]}
        for name, nodes in found.items()
        for row in nodes
    ]
    show_rows(
        rows,
        ["service", "node", "kind", "when", "model", "version", "how"]
        if len(found) > 1
        else ["node", "kind", "when", "model", "version", "how"],
        as_json=False,
        empty="no service here answers by a graph; one with graph= does, see docs/how-to/inference-graphs.md",
    )

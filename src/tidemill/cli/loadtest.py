"""tidemill loadtest: load a service with the requests that it was really asked."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.options import json_option, opened, project_options
from tidemill.cli.output import show_facts, show_json
from tidemill.core.errors import InvalidError


@click.command("loadtest")
@project_options
@json_option
@click.argument("service", required=False)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="The folder to write; loadtests/SERVICE by default."
)
@click.option("--calls", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Draw from so many of the last calls.")
@click.option("--requests", type=click.File("rb"), default=None, help="Draw from these requests instead, one JSON object a line.")
@click.option("--run", "now", is_flag=True, help="Run it, too, and keep the report.")
@click.option("--users", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Callers at the same time.")
@click.option("--time", "time_", default="30s", show_default=True, help="How long.")
@click.option("--rate", type=float, default=0.0, help="Calls a second of all callers together; as many as they can by default.")
@click.option("--url", default=None, help="The model server; default: the configured one on this machine.")
@click.option("--python", default="", help="An interpreter that has Locust, instead of this one.")
def loadtest_command(
    project: Path, overrides: Sequence[str], as_json: bool, service: str | None, out: Path | None, calls: int, requests: Any, now: bool,
    users: int, time_: str, rate: float, url: str | None, python: str,
) -> None:  # fmt: skip
    """Write a Locust file that asks SERVICE what it was really asked, and run it with --run. The token is read from TIDEMILL_TOKEN.

    Its predictions are answered and logged like any others, under ids that begin with loadtest-: do not load a server whose quality you watch.
    """
    from tidemill.adapters.locust import run, write
    from tidemill.cli.serving import TOKEN_VARIABLE
    from tidemill.platform.tls import address

    with opened(project, overrides) as platform:
        found = platform.definitions.service(service)
        folder = out or platform.project / "loadtests" / found.name
        drawn = [[row] for row in map(_row, requests) if row] if requests else _logged(platform, found, calls)
        facts: dict[str, Any] = {"service": found.name, **write.write(found, drawn, folder)}
        if now:
            config = platform.config
            host = url or address(config, config.serving.host, config.serving.port)
            ca = str((platform.project / config.tls.ca).resolve()) if config.tls.ca else ""
            token = os.environ.get(TOKEN_VARIABLE, "")
            made = run.run(folder / write.FILE, host, users=users, time=time_, rate=rate, python=python, token=token, ca=ca)
            facts = _keep(platform, facts | {"host": host, **made})
    if as_json:
        show_json(facts)
        return
    shown = {k: v for k, v in facts.items() if k not in ("history", "errors", "latency_ms")} | (facts.get("latency_ms") or {})
    show_facts(shown, as_json=False, title=f"load of {facts['service']}" + (f": {facts['id']}" if "id" in facts else ""))
    for error in facts.get("errors", ()):
        click.echo(f"  {error['n']} x {error['error']}")


def _row(line: bytes) -> Mapping[str, Any]:
    if not line.strip():
        return {}
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidError(f"a request is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidError("a request must be a JSON object")
    return row


def _logged(platform: Any, service: Any, calls: int) -> list[list[dict[str, Any]]]:
    from tidemill.adapters.locust import write

    at = platform.log.scores(service.name)["at_us"]
    first = int(at[max(0, at.size - 20 * calls)]) if at.size else 0  # rows of calls and their shadows; older ones are not read
    answered = platform.log.read(service.name, from_us=first, roles=("live", "canary"))
    mine = (p for p in answered if not p.id.startswith("loadtest-"))
    return list(deque(write.logged_calls(service, mine), maxlen=calls))


def _keep(platform: Any, report: Mapping[str, Any]) -> dict[str, Any]:
    from tidemill.core import ids
    from tidemill.ledger import schema
    from tidemill.ledger.store import emit, to_json, upsert

    now = platform.clock.now_us()
    kept = {"id": ids.derive("loadtest", report["service"], now), "at_us": now, **report}
    with platform.ledger.write() as db:
        upsert(db, schema.state, {"name": f"loadtest:{kept['id']}", "value": to_json(kept), "at_us": now})
        told = {"test": kept["id"], "rate": kept["rate"], "failures": kept["failures"]}
        emit(db, "service.loaded", kept["service"], told, at_us=now, actor="local")
    return kept

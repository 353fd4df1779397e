"""tidemill up: API with console, model server, reconciler, trainer and follower, kept alive until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidemill.cli.options import opened, project_options

if TYPE_CHECKING:
    from tidemill.platform.root import Platform

CONSOLE = "console"
"""The name of the token behind the link that logs in."""


@click.command("up")
@project_options
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port of console and API, instead of the configured one.")
@click.option(
    "--serving-port", type=click.IntRange(1, 65535), default=None, help="Port of the model server, instead of the configured one."
)
@click.option("--no-reconciler", is_flag=True, help="Serve and show only; nothing is ingested, trained or rolled out.")
def up_command(project: Path, overrides: Sequence[str], port: int | None, serving_port: int | None, no_reconciler: bool) -> int:
    """Start console, API, model server, reconciler, trainer and, where a feature view reads a stream, its follower; those that die are started again.

    Ctrl-C lets requests finish and stops all.
    """
    from tidemill.cli.supervisor import Supervisor, check_ports, only_one
    from tidemill.cli.web import listens
    from tidemill.platform.tls import address, tls_of

    given = [*overrides]
    if port is not None:
        given.append(f"api.port={port}")
    if serving_port is not None:
        given.append(f"serving.port={serving_port}")
    with opened(project, given) as platform:
        root, home, config = platform.project, platform.home, platform.config
        platform.definitions  # noqa: B018 - a broken definitions.py is reported here, not by three dying processes
        with only_one(home):
            host, number = listens(config.serving)
            addresses = {"api": (config.api.host, config.api.port), "server": (host, number)}
            if config.serving.grpc_port is not None:
                addresses["grpc"] = (host, config.serving.grpc_port)
            check_ports(addresses)
            for name in (config.api.host, host):
                tls_of(config, root, check=name)
            secret = first_token(platform)
            click.echo(
                f"console  {address(config, config.api.host, config.api.port)}{_login(platform, secret)}   logs in once, within ten minutes"
            )
            click.echo(f"models   {address(config, host, number)}/v2")
            if "grpc" in addresses:
                click.echo(f"grpc     {config.tls.name or host}:{config.serving.grpc_port}")
            if secret:
                click.echo(f"token    {click.style(secret, bold=True)}   shown only now; it is stored as a hash")
                click.echo("         export TIDEMILL_TOKEN with it for `tidemill predict`; the console asks for it once")
            names = ["api", "server", *([] if no_reconciler else ["reconciler", "trainer", *(["follower"] if _streams(platform) else [])])]
            return Supervisor(names, root, given, home / "log", addresses, say=lambda text: click.echo(text, err=True)).run()


def _streams(platform: Platform) -> bool:
    """Whether a feature view reads a table whose events come in a topic."""
    return any(view.table.name in platform.topics for view in platform.definitions.views.values())


def first_token(platform: object) -> str:
    """The secret of a new token for everything when there is none yet; else empty."""
    from tidemill.platform.root import Platform
    from tidemill.serving import Tokens

    assert isinstance(platform, Platform)
    tokens = Tokens(platform.ledger, platform.clock)
    return "" if tokens.listed() else tokens.make("admin", "admin")


def _login(platform: object, secret: str) -> str:
    """The path of a link that opens the console without asking for the token. Its session ends with the next `tidemill up`."""
    from tidemill.console import once
    from tidemill.platform.root import Platform
    from tidemill.serving import Tokens

    assert isinstance(platform, Platform)
    tokens = Tokens(platform.ledger, platform.clock)
    if not secret:
        if any(known.name == CONSOLE for known in tokens.listed()):
            tokens.revoke(CONSOLE)
        secret = tokens.make(CONSOLE, "admin")
    return once.issue(platform.ledger, platform.clock, secret)

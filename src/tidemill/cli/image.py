"""What an image of `tidemill build` runs: `python -m tidemill.cli.image FOLDER serve|health [--host …] [--port …]`.

The folder holds the model and the project's code; the state folder (`TIDEMILL_STATE`) a ledger of its own in which this model version is live, and
the prediction log. Starting again on the same state goes on with it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import ssl
import sys
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import click

from tidemill.cli.exits import code_of, explain
from tidemill.core.machine import near

TOKEN, STATE, OVERRIDES = "TIDEMILL_TOKEN", "TIDEMILL_STATE", "TIDEMILL_OVERRIDES"
LOOPBACK, PORT = "127.0.0.1", 8401
ADDRESS = "address"
"""File in the state: `host:port` of the server that was started last."""


@click.group()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def image(context: click.Context, folder: Path) -> None:
    """The model server of one image."""
    context.obj = folder.resolve()


@image.command()
@click.option("--host", default=None, help=f"Default: that of the hosting platform's contract, or {LOOPBACK}.")
@click.option("--port", type=int, default=None, help=f"Default: that of the hosting platform's contract, or {PORT}.")
@click.pass_obj
def serve(folder: Path, host: str | None, port: int | None) -> None:
    """Serve until SIGTERM, then finish the requests in flight."""
    from tidemill.cli.web import build_models, listens
    from tidemill.platform.root import Platform
    from tidemill.platform.tls import tls_of
    from tidemill.serving.run import serve as run

    facts = json.loads((folder / "image.json").read_bytes())
    state = _state(folder)
    platform = Platform.open(folder / "project", [*_own(state.resolve()), *_given()], home=state)
    asked = listens(platform.config.serving) if platform.config.serving.contract else (LOOPBACK, PORT)
    host, port = host or asked[0], port or asked[1]
    tls_of(platform.config, platform.project, check=host)
    prepare(platform, folder, facts)
    (state / ADDRESS).write_text(f"{near(host)}:{port}", encoding="utf-8")
    run(build_models(platform), host=host, port=port)
    platform.close()


@image.command()
@click.option("--port", type=int, default=None, help="Default: where the server of this state was last started.")
@click.pass_obj
def health(folder: Path, port: int | None) -> None:
    """Exit 0 when the server on this machine is ready, whether it speaks TLS or not: to read the configuration would cost seconds each time."""
    where = f"{_address(_state(folder), port)}/v2/health/ready"
    try:
        status = _either(where)
    except (OSError, HTTPException) as error:
        click.echo(f"not ready: {where}: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if status == 200 else 1)


def _either(where: str) -> int:
    try:
        return _status(f"http://{where}", None)
    except (OSError, HTTPException):
        ours = ssl.create_default_context()  # nothing is told to the server, and what it says is all that counts
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        return _status(f"https://{where}", ours)


def _status(url: str, trusts: ssl.SSLContext | None) -> int:
    with urllib.request.urlopen(url, timeout=3, context=trusts) as answer:  # noqa: S310 - http or https
        return int(answer.status)


def _state(folder: Path) -> Path:
    return Path(os.environ.get(STATE, folder / "state"))


def _address(state: Path, port: int | None) -> str:
    """The address that `serve` left in the state: whoever replaces the command of an image need not tell its health check."""
    try:
        return f"{LOOPBACK}:{port}" if port else (state / ADDRESS).read_text(encoding="utf-8")
    except OSError:
        return f"{LOOPBACK}:{PORT}"


def _given() -> list[str]:
    return shlex.split(os.environ.get(OVERRIDES, ""))


def _own(state: Path) -> list[str]:
    """What an image keeps for itself, wherever the project keeps it: nobody else's ledger learns of its deployment."""
    return [
        f"stack.ledger=sqlite:///{state}/ledger.db",
        f"stack.blobs=files:{state}/blobs",
        f"stack.predictions=sqlite:{state}/predictions.db",
    ]


def prepare(platform: Any, folder: Path, facts: Mapping[str, Any]) -> None:
    """Put the model into the state, live, and the token that whoever runs the image gives; without one, a new one is shown once."""
    from tidemill.core.errors import CorruptError
    from tidemill.serving import Tokens

    model = facts["model"]
    digest = platform.blobs.put(folder / "model")
    if digest != model["digest"]:
        raise CorruptError(f"the model in this image has digest {digest}, it was built with {model['digest']}; build it again")
    _make_live(platform, facts)
    tokens = Tokens(platform.ledger, platform.clock)
    if secret := os.environ.get(TOKEN, ""):
        tokens.accept("image", secret, role="ml-engineer")
    elif not tokens.listed():
        click.echo(f"token: {tokens.make('image', role='ml-engineer')}  (shown once; set {TOKEN} to choose it)")


def _make_live(platform: Any, facts: Mapping[str, Any]) -> None:
    import sqlalchemy as sa

    from tidemill.ledger import schema
    from tidemill.ledger.store import insert_once, to_json

    model, now = facts["model"], platform.clock.now_us()
    version = {k: model[k] for k in ("name", "version", "digest", "run_id", "at_us")} | {"status": "champion"}
    decision = f"image-{model['digest'][7:23]}"
    row = {
        "id": f"{facts['service']}-{model['version']}-image",
        "service": facts["service"],
        "model": model["name"],
        "version": model["version"],
    }
    with platform.ledger.write() as db:
        insert_once(db, schema.model_version, {**version, "metrics": to_json(model["metrics"]), "meta": to_json(model["meta"])})
        others = schema.deployment.c.service == facts["service"], schema.deployment.c.id != row["id"]
        db.execute(sa.update(schema.deployment).where(*others, schema.deployment.c.ended_us.is_(None)).values(ended_us=now))
        live = {"role": "live", "weight": 1.0, "stage": 0, "decision_id": decision, "since_us": now, "started_us": now}
        insert_once(db, schema.deployment, {**row, **live})
        db.execute(sa.update(schema.deployment).where(schema.deployment.c.id == row["id"]).values(ended_us=None))


def main() -> None:
    """Run; an error is one line and the documented exit code. The first process of a container ignores SIGTERM unless it says what to do."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        image.main(standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the process ends here
        click.echo(explain(error), err=True)
        sys.exit(code_of(error))


if __name__ == "__main__":
    main()

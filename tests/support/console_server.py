"""The API and console over the sample year, on loopback: `python -m tests.support.console_server PORT`. Prints the token on its first line."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from granian.constants import Interfaces
from granian.server.embed import Server

from tests.support.sample_platform import SamplePlatform, empty, sample
from tidemill.api.app import build_api
from tidemill.api.needs import Needs
from tidemill.console.app import mount
from tidemill.retraining.why import why
from tidemill.serving.tokens import Tokens


def build(platform: SamplePlatform, origins: Sequence[str] = ()) -> tuple[FastAPI, str]:
    """The application over a platform and an admin's token for it. `origins`: other sites that may ask."""
    tokens = Tokens(platform.ledger, platform.clock)
    app = build_api(cast("Needs", platform), verify=tokens.verify, why=explain, origins=origins)
    mount(app)
    return app, tokens.make(f"tests{len(tokens.listed()) or ''}", "admin")


def explain(platform: Any, prediction_id: str) -> Mapping[str, Any]:
    """`why` reads the same attributes of a loop that the sample platform has."""
    return why(platform, prediction_id)


@cache
def home() -> Path:
    """Where the sample lives while the process does."""
    return Path(tempfile.mkdtemp(prefix="tidemill-console-"))


def main(port: int, kind: str = "sample", folder: str = "") -> None:
    """Serve until killed. `folder`: where the sample lives, if somebody else looks after it."""
    at = Path(folder) if folder else home()
    try:
        app, token = build(sample(at) if kind == "sample" else empty(at))
        sys.stdout.write(f"{token}\n")
        sys.stdout.flush()
        asyncio.run(Server(app, "127.0.0.1", port, interface=Interfaces.ASGI, log_enabled=False).serve())
    finally:
        if not folder:
            shutil.rmtree(at, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

"""The project that `tidemill init` writes, its rows ingested, with a model of whatever kind."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.blocks import copied
from tests.support.serving_kit import Reply, Scope
from tidemill.cli.web import build_models
from tidemill.platform.root import Platform

UNTIL = "2024-01-23"


def tidemill(*args: str, ok: tuple[int, ...] = (0,)) -> str:
    """Run a command, as a person would."""
    done = subprocess.run([sys.executable, "-m", "tidemill.cli", *args], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in ok, f"tidemill {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def ingested(folder: Path) -> Path:
    """The project after a day of its loop: three weeks of rows and labels, version 1 live."""
    tidemill("init", str(folder))
    tidemill("replay", "--project", str(folder), "--from", "2024-01-22", "--to", UNTIL, "--policy", "never")
    return folder


def trained(there: Path, folder: Path, fit: str = "", *, config: str = "", files: dict[str, str] | None = None) -> Path:
    """A copy whose step `fit` has this body instead, trained and live as version 2."""
    copied(there, folder)
    definitions = folder / "definitions.py"
    if fit:
        code = re.sub(r"    x, y = tm\.encode.*?\n\n\n", lambda _: fit + "\n\n\n", definitions.read_text(), flags=re.DOTALL)
        definitions.write_text(code)
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    if config:
        path = folder / "conf" / "config.yaml"
        path.write_text(path.read_text() + config)
    tidemill("train", "--project", str(folder), "--until", UNTIL)
    tidemill("deploy", "--project", str(folder), "2", "--now", "--reason", "a test")
    return folder


async def asked(platform: Platform, body: bytes, service: str = "kitchen") -> Reply:
    """What the model server answers, without a network."""
    import asyncio

    app = build_models(platform)
    app._tokens = None
    app.__rsgi_init__(asyncio.get_running_loop())
    reply: Any = Reply(body)
    await app.__rsgi__(Scope("POST", f"/v2/models/{service}/infer", {"content-length": str(len(body))}), reply)
    await asyncio.get_running_loop().run_in_executor(None, app.close)
    return reply  # type: ignore[no-any-return]

"""Schemathesis against a real model server, by the server's own OpenAPI description: no answer is a 5xx, and the server lives.

`python -m tests.support.api_fuzz 600` does it for ten minutes; the test in tests/unit/serving/test_serving_api_fuzz.py for a quarter of one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.support.feast_kit import FeastKit
from tests.support.serving_kit import Stack, free_port, server
from tests.support.venvs import python_with
from tidemill.core.clock import WallClock
from tidemill.serving import Tokens
from tidemill.serving.http import Settings
from tidemill.serving.server import ModelServer, build_app


def app() -> ModelServer:
    """A server with everything: a model, the routes for features, labels by feedback. Its token may do all but deploy."""
    home = Path(os.environ["SERVING_KIT_HOME"])
    stack, features = Stack(home), FeastKit(home / "features").app._features
    return build_app(
        {"late": stack.scorer()},
        Tokens(stack.ledger, WallClock()),
        clock=WallClock(),
        settings=Settings(poll_s=0.5),
        features=features,
        feedback=lambda _service, values, _who: len(values),
    )


def fuzz(home: Path, seconds: int, *more: str) -> tuple[int, str, str]:
    """Schemathesis's exit code and output, and the server's log, in which an exception that nobody raised on purpose is a `Traceback`."""
    python = python_with("schemathesis", "schemathesis>=4.32")
    stack = Stack.of(home, live=1)
    (home / "features").mkdir()
    token, port = Tokens(stack.ledger, WallClock()).make("fuzz", "data-engineer"), free_port()
    checks = ["--checks", "not_a_server_error", "--continue-on-failure", "--max-time", str(seconds), "--warnings", "off", "--no-color"]
    with server(home, port, factory="tests.support.api_fuzz:app") as process:
        where = f"http://127.0.0.1:{port}"
        asked = [f"{where}/openapi.json", "-H", f"authorization: Bearer {token}", "--suppress-health-check", "all", *checks, *more]
        done = subprocess.run(
            [str(python), "-m", "schemathesis.cli", "run", *asked],
            capture_output=True,
            text=True,
            cwd=home,
            timeout=seconds * 3 + 120,
            check=False,
        )
        assert process.poll() is None, (home / "server.log").read_text()
        assert httpx.get(f"{where}/v2/health/ready").status_code == 200
    return done.returncode, done.stdout + done.stderr, (home / "server.log").read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        code, told, log = fuzz(Path(folder), int(sys.argv[1]), *sys.argv[2:])
    sys.stdout.write(f"{told}\n{log}\n")
    sys.exit(code)

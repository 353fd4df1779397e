"""What the console's process writes is of one shape, also what its HTTP server says."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

from tests.support.serving_kit import free_port

SCRIPT = """
import asyncio, logging, sys
from tidemill.cli.web import _serve
from tidemill.core.logs import JsonFormatter

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(JsonFormatter())
logging.basicConfig(level=logging.INFO, handlers=[handler])


async def app(scope, receive, send):
    if scope["type"] == "http":
        raise RuntimeError("on purpose")


asyncio.run(_serve(app, "127.0.0.1", int(sys.argv[1]), None))
"""


def test_each_line_is_json_when_json_is_asked_for() -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        status, until = 0, time.monotonic() + 30
        while status != 500 and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
            except urllib.error.HTTPError as error:
                status = error.code
            except OSError:
                time.sleep(0.05)
        process.kill()
        said, _ = process.communicate(timeout=30)
    assert status == 500
    lines = [json.loads(line) for line in said.splitlines()]
    assert any("on purpose" in str(line) for line in lines)

"""Scripts that ask a model server with the client libraries its users have, and the Python to run them in.

Each script is run as `python SCRIPT ADDRESS TOKEN` and prints JSON. The libraries live in an environment of their own, `.venv-clients`,
because they pin what they need.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def ask_with(script: str, address: str, token: str) -> Any:
    """What a script of this folder prints; the test is skipped without the clients, or fails if TIDEMILL_LIVE names them."""
    python = os.environ.get("TIDEMILL_CLIENTS_PYTHON") or str(ROOT / ".venv-clients" / "bin" / "python")
    if not Path(python).exists():
        told = "no client libraries: python -m venv .venv-clients && .venv-clients/bin/pip install 'tritonclient[http,grpc]' mlflow-skinny pandas scipy"
        if "clients" in os.environ.get("TIDEMILL_LIVE", "").split():
            pytest.fail(told)
        pytest.skip(told)
    path = Path(__file__).with_name(f"{script}.py")
    done = subprocess.run([python, str(path), address, token], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)

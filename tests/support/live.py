"""Programs that live tests start: skipped when missing, failed when TIDEMILL_LIVE names them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def program(system: str, *names: str, package: str) -> str:
    """The path of the first of `names` that is installed, in `PATH` or where Debian puts it."""
    for name in names:
        for found in (shutil.which(name), *sorted(Path("/usr/lib").glob(f"{system}/*/bin/{name}"), reverse=True), Path("/usr/sbin") / name):
            if found is not None and Path(found).is_file():
                return str(found)
    text = f"needs {names[0]}: apt-get install {package}"
    if system in os.environ.get("TIDEMILL_LIVE", ""):
        pytest.fail(f"TIDEMILL_LIVE names {system}; {text}")
    pytest.skip(text)

"""Virtual environments with real frameworks, made when a test first needs one and kept outside of the checkout."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "tidemill-live" / "venvs"


def python_with(name: str, *words: str, folder: Path | None = None) -> Path:
    """The interpreter of an environment where `pip install WORDS` was done; the test is skipped where that cannot be had.

    A live test that `TIDEMILL_LIVE` names must not skip itself: then it fails instead.
    """
    texts = [(folder / word).read_text() for word in words if folder and (folder / word).is_file()]
    key = hashlib.sha256("\0".join([sys.version, *words, *texts]).encode()).hexdigest()[:12]
    home = CACHE / f"{name}-{key}"
    python = home / "bin" / "python"
    if not (home / "done").exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], capture_output=True, text=True, check=False)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *words]
        done = subprocess.run(pip, capture_output=True, text=True, check=False, cwd=folder, timeout=900) if made.returncode == 0 else made
        if done.returncode != 0:
            if name in os.environ.get("TIDEMILL_LIVE", "").split():
                raise AssertionError(f"{name} could not be installed: {done.stderr[-500:]}")
            pytest.skip(
                f"{name} could not be installed: {done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else 'no reason given'}"
            )
        (home / "done").touch()
    return python

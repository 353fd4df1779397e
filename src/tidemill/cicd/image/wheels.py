"""The wheels of all that an image needs, beside its Dockerfile: it then builds without an index, from files whose SHA-256 is known."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from packaging.utils import parse_wheel_filename

from tidemill.core.errors import ConfigError, NotFoundError, UnavailableError

_EPOCH = "315532800"
"""1980-01-01, in seconds: the time in wheels that pip builds from sources, so that the same sources give the same bytes."""
_SAID = 400


def fetch_wheels(context: Path) -> None:
    """Fill `wheels` with what `requirements.txt` names, by the pip of this environment as it is configured, and write each digest into the file.

    Raises:
        ConfigError: this is not Linux, and the wheels here would not be an image's.
        NotFoundError: there is no pip.
        UnavailableError: pip could not get one; says what pip said.
    """
    if sys.platform != "linux":
        raise ConfigError(f"wheels for {sys.platform} are of no use in an image; build on Linux, or without --wheels")
    if find_spec("pip") is None:
        raise NotFoundError("--wheels needs pip in Tidemill's environment; python -m ensurepip, then build again")
    locked, folder = context / "requirements.txt", context / "wheels"
    words = ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--find-links", str(folder), "--wheel-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--requirement", str(locked)],
        env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise UnavailableError(f"pip could not get the wheels of the image: {done.stderr.strip()[-_SAID:]}")
    digests = digests_of(folder)
    lines = locked.read_text(encoding="utf-8").splitlines()
    locked.write_text("".join(f"{line} --hash=sha256:{digests[line.partition('==')[0]]}\n" for line in lines), encoding="utf-8")


def digests_of(folder: Path) -> dict[str, str]:
    """The SHA-256, in hex, of each wheel in a folder by its package's canonical name."""
    return {str(parse_wheel_filename(path.name)[0]): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.whl")}

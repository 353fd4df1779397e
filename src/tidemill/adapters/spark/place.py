"""Where Spark runs and with which settings, from a URL; and the Java that it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tidemill.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where Spark runs (`master`) and settings of it, from a URL."""

    master: str
    settings: dict[str, str]

    @classmethod
    def parse(cls, url: str, setting: str = "stack.offline") -> Place:
        """Read `spark:local[4]`, `spark://host:7077`, `spark:yarn` or `spark:k8s://…`, with settings as `?spark.executor.memory=8g&…`.

        Raises:
            ConfigError: it names no master, or something that is no setting of Spark.
        """
        head, _, query = url.partition("?")
        master = head if head.startswith("spark://") else head.removeprefix("spark:")
        pairs = (text.partition("=") for text in query.split("&") if text)
        settings = {unquote(name): unquote(value) for name, _, value in pairs}
        if not master:
            raise ConfigError(f"{setting}: {url!r} names no master; write spark:local[2], spark://host:7077 or spark:yarn")
        if wrong := sorted(name for name in settings if not name.startswith("spark.")):
            raise ConfigError(
                f"{setting}: {', '.join(wrong)} is no setting of Spark; they begin with 'spark.', as spark.executor.memory=8g"
            )
        return cls(master, settings)

    @property
    def local(self) -> bool:
        """Whether it runs in this machine's own processes."""
        return self.master == "local" or self.master.startswith("local[")


def java_version() -> int | None:
    """The major version of the Java that Spark would start, None where there is none; 0 when it does not say."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        return None
    release = Path(found).resolve().parent.parent / "release"
    match = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', release.read_text(errors="replace")) if release.is_file() else None
    return int(match[1]) if match else _asked_version(found)


def _asked_version(java: str) -> int:
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(match[1]) if match else 0

"""Feast, in an environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kit

NEEDS = ["feast[redis,duckdb]>=0.67", "hiredis"]


class Feast:
    """The peer's process, started when it is first asked."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self._peer: kit.Peer | None = None

    def ask(self, do: str, **what: Any) -> Any:
        """See `peers/feast.py`."""
        if self._peer is None:
            self._peer = kit.Peer(self.python, "feast", self.folder / "feast", FEAST_USAGE="False", PYTHONWARNINGS="ignore")
        return self._peer.ask(do, **({} if do == "version" else {"data": str(self.folder)}), **what)

    def repository(self, name: str) -> Path:
        """Where the repository of a filled store is."""
        return self.folder / "feast" / name

    def close(self) -> None:
        """End the process."""
        if self._peer is not None:
            self._peer.close()


def feast(folder: Path) -> Feast | None:
    """Feast; None where it cannot be installed."""
    python = kit.peer_python("feast", *NEEDS)
    if python is None:
        print("Feast is left out", file=sys.stderr)
        return None
    return Feast(python, folder)

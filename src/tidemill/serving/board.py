"""Counts of several server processes, added up wherever one of them is asked: a folder with one small file a process.

A process writes its file before it adds up, and at every look at the deployments, and adds up what it wrote, so what a scraper is told never
goes back, whichever process answers. Files of processes that have ended stay, and with them what they counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from tidemill.core.conditions import Condition, merged
from tidemill.serving.metrics import ServiceMetrics


@dataclass(frozen=True)
class Counts:
    """What one process has counted: of each service (`ServiceMetrics.facts`), of this moment, and since it started."""

    services: Mapping[str, Mapping[str, Any]]
    now: Mapping[str, int]
    ever: Mapping[str, int]


class Board:
    """One process's place among those of one server. `name` is the worker's; a restarted worker keeps the name of the one before."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file = folder / f"{name}.{os.getpid()}.json"

    def write(self, count: Callable[[], Counts], conditions: Sequence[Condition] = ()) -> Counts:
        """Say what this process has counted, and what it has to do without. Returns what was said."""
        part = self._file.with_suffix(".part")
        with self._lock:  # counted within: what another thread counted before must not replace it
            said = count()
            part.write_bytes(msgspec.json.encode({**asdict(said), "conditions": conditions}))
            part.replace(self._file)
        return said

    def together(self, mine: Counts) -> tuple[dict[str, ServiceMetrics], dict[str, int], dict[str, int]]:
        """All processes' counts: what this one and the others last said."""
        total = {name: ServiceMetrics() for name in mine.services}
        for name, facts in mine.services.items():
            total[name].add(facts)
        at_present, at_all = dict(mine.now), dict(mine.ever)
        newest = self._newest()
        for path, said in self._others():
            for name, facts in said["services"].items():
                total.setdefault(name, ServiceMetrics()).add(facts)
            for name, value in said["ever"].items():
                at_all[name] = at_all.get(name, 0) + value
            if path in newest:
                for name, value in said["now"].items():
                    at_present[name] = at_present.get(name, 0) + value
        at_present["log_degraded"] = min(1, at_present.get("log_degraded", 0))
        return total, at_present, at_all

    def conditions(self, mine: Sequence[Condition]) -> list[Condition]:
        """What any of the processes that run now has to do without."""
        newest = self._newest()
        theirs = [said["conditions"] for path, said in self._others() if path in newest]
        return merged([*mine, *msgspec.convert([one for said in theirs for one in said], list[Condition])])

    def _others(self) -> list[tuple[Path, dict[str, Any]]]:
        return [(path, msgspec.json.decode(path.read_bytes())) for path in sorted(self._folder.glob("*.json")) if path != self._file]

    def _newest(self) -> set[Path]:
        """Files of the processes that run now: the last one written of each worker's name."""
        last: dict[str, Path] = {}
        for path in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            last[path.name.partition(".")[0]] = path
        return set(last.values())

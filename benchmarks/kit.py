"""What every benchmark needs: tools interleaved in one run, figures as JSON lines, and what machine it was.

A benchmark calls `arguments()` once, measures with `interleave`, and hands the numbers to `report`, which prints one line per
tool and task. See docs/benchmarks.md for how the lines become the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

OURS = "tidemill"


@dataclass
class Options:
    """How a benchmark was called."""

    json: bool = False
    quick: bool = False
    tasks: tuple[str, ...] = ()
    printed: list[dict[str, Any]] = field(default_factory=list)

    def wants(self, task: str) -> bool:
        """Whether a task was asked for (all are, without a choice)."""
        return not self.tasks or task in self.tasks


_options = Options()


def arguments(description: str) -> Options:
    """Read the command line every benchmark has: `[TASK …] [--json] [--quick]`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tasks", nargs="*", help="tasks to run (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per figure and nothing else")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and smaller sizes: seconds, not minutes")
    given = parser.parse_args()
    _options.json, _options.quick, _options.tasks = given.json, given.quick, tuple(given.tasks)
    return _options


def interleave(tools: Mapping[str, Callable[[], float]], n: int) -> dict[str, list[float]]:
    """Measure each tool `n` times, one after the other in every round, the order turning by one each round.

    Each callable prepares what it needs, measures itself and returns its figure (seconds, or a rate).
    """
    names = list(tools)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(n):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(tools[name]())
    return found


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def report(
    task: str,
    measured: Mapping[str, Sequence[float]],
    unit: str,
    *,
    scale: float = 1.0,
    floor: str = "",
    better: Literal["lower", "higher"] = "lower",
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Print the median of each tool; tools other than ours and the floor are peers. `extra` adds facts per tool (errors, losses)."""
    values = {name: statistics.median(list_) * scale for name, list_ in measured.items()}
    peers = [value for name, value in values.items() if name not in (OURS, floor)]
    best = (min if better == "lower" else max)(peers, default=None)
    for name, value in values.items():
        figure(
            task,
            name,
            value,
            unit,
            n=len(measured[name]),
            vs_floor=_worse(value, values.get(floor), better),
            vs_best_peer=_worse(best, value, better) if name == OURS else None,
            spread=[min(measured[name]) * scale, max(measured[name]) * scale],
            **(extra or {}).get(name, {}),
        )


def _worse(value: float | None, than: float | None, better: Literal["lower", "higher"]) -> float | None:
    """How many times worse `value` is than `than`, for times and rates alike."""
    if not value or not than:
        return None
    return value / than if better == "lower" else than / value


def figure(
    task: str, tool: str, value: float, unit: str, *, n: int, vs_floor: float | None = None, vs_best_peer: float | None = None, **facts: Any
) -> None:
    """Print one figure: a JSON line with --json, else a line to read."""
    line = {"task": task, "tool": tool, "value": _short(value), "unit": unit, "n": n, "vs_floor": _short(vs_floor)}
    line |= {"vs_best_peer": _short(vs_best_peer), **{k: _short(v) for k, v in facts.items()}, "load1": round(os.getloadavg()[0], 1)}
    _options.printed.append(line)
    if _options.json:
        print(json.dumps(line), flush=True)
        return
    notes = [f"{_short(vs_floor)} x floor"] if vs_floor else []
    notes += [f"{_short(vs_best_peer)} x better than the best peer"] if vs_best_peer else []
    notes += [f"{name} {_short(fact)}" for name, fact in facts.items()]
    print(f"{task:24} {tool:22} {_short(value):>10} {unit:10} {', '.join(notes)}", flush=True)


def machine(*packages: str) -> dict[str, Any]:
    """Print and return what the figures were measured on: cores, Python, versions of packages, load."""
    facts: dict[str, Any] = {
        "task": "machine",
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load1": round(os.getloadavg()[0], 1),
        "versions": {name: _version(name) for name in packages},
    }
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    text = f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, load {facts['load1']}, {versions}"
    print(json.dumps(facts) if _options.json else text, flush=True)
    return facts


def peer_python(name: str, *requirements: str) -> Path | None:
    """The interpreter of a peer's own virtual environment, made on first use below the user's cache; None if it cannot be made."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidemill-benchmarks" / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=False)
        if done.returncode:
            print(f"the peer {name} could not be installed; its figures are left out", file=sys.stderr)
            return None
        (home / "ready").touch()
    return python


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tidemill-benchmark-") as folder:
        yield Path(folder)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _short(value: Any) -> Any:
    """Four digits are more than a figure is good for."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_short(item) for item in value] if isinstance(value, list) else value

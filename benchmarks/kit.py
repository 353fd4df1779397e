"""What every benchmark needs: tools interleaved in one run, figures as JSON lines, and what machine it was.

A benchmark calls `arguments()` once, measures with `interleave`, and hands the numbers to `report`, which prints one line per
tool and task. A tool that fails, or answers wrongly, gets a line that says so instead of a figure. Peers that need an environment
of their own run in a `Peer`. See docs/benchmarks.md for how the lines become the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
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
HERE = Path(__file__).resolve().parent


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and folders go with us
    return _options


class WrongError(Exception):
    """A tool's answer is wrong; its speed is of no interest."""


def interleave(
    tools: Mapping[str, Callable[[], float]], n: int, *, slow: Mapping[str, int] | None = None, failures: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """Measure each tool `n` times, one after the other in every round, the order turning by one each round.

    Each callable prepares what it needs, measures itself and returns its figure (seconds, or a rate). `slow` gives some tools fewer
    rounds. With `failures`, a tool that raises is left out from then on and its reason noted there; without, the error goes up.
    """
    names = list(tools)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(n):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if turn >= (slow or {}).get(name, n) or name in (failures or {}):
                continue
            try:
                found[name].append(tools[name]())
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = f"{type(error).__name__}: {error}"[:300]
                found[name].clear()
    return found


class Spent:
    """Processor seconds beside wall clock: on a shared machine they say more."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}

    def seconds(self, tool: str, action: Callable[[], object]) -> float:
        """How long one call takes; its processor time, of all threads, is noted for `tool`."""
        cpu = time.process_time()
        wall = seconds(action)
        self.cpu.setdefault(tool, []).append(time.process_time() - cpu)
        return wall

    def facts(self, **more: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The median processor seconds of each tool, and what else is known of some."""
        found = {tool: {"cpu_s": statistics.median(list_)} for tool, list_ in self.cpu.items()}
        return {tool: {**found.get(tool, {}), **more.get(tool, {})} for tool in {*found, *more}}


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def is_ours(tool: str) -> bool:
    """Whether a tool is Tidemill, maybe on some store (`tidemill-redis`)."""
    return tool == OURS or tool.startswith(f"{OURS}-")


def report(
    task: str,
    measured: Mapping[str, Sequence[float]],
    unit: str,
    *,
    scale: float = 1.0,
    floor: str | Mapping[str, str] = "",
    better: Literal["lower", "higher"] = "lower",
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    failures: Mapping[str, str] | None = None,
) -> None:
    """Print the median of each tool; tools other than ours and the floors (`floor`, and all named `floor-…` or `hand-written …`) are peers.

    `floor`: the one that all are compared with, or that of each tool. `extra` adds facts per tool (errors, losses).
    """
    values = {name: statistics.median(list_) * scale for name, list_ in measured.items() if list_}
    floors = {floor} if isinstance(floor, str) else set(floor.values())
    floors |= {name for name in values if name.startswith(("floor-", "hand-written"))}
    peers = [value for name, value in values.items() if not is_ours(name) and name not in floors]
    best = (min if better == "lower" else max)(peers, default=None)
    for name, value in values.items():
        its = floor if isinstance(floor, str) else floor.get(name, "")
        figure(
            task,
            name,
            value,
            unit,
            n=len(measured[name]),
            vs_floor=_worse(value, values.get(its), better),
            vs_best_peer=_worse(best, value, better) if is_ours(name) else None,
            spread=[min(measured[name]) * scale, max(measured[name]) * scale],
            **(extra or {}).get(name, {}),
        )
    for name, why in (failures or {}).items():
        failed(task, name, why)


def failed(task: str, tool: str, why: str) -> None:
    """Print that there is no figure, and why."""
    line = {"task": task, "tool": tool, "value": None, "unit": "", "n": 0, "failed": why, "load1": round(os.getloadavg()[0], 1)}
    _options.printed.append(line)
    print(json.dumps(line) if _options.json else f"{task:24} {tool:22} {'failed':>10} {why}", flush=True)


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
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load1": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "mode": "quick" if _options.quick else "full",
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


class Peer:
    """A tool in a process and an environment of its own: `benchmarks/peers/NAME.py` answers JSON lines (see `peers/worker.py`)."""

    def __init__(self, python: Path, module: str, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        paths = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._log = (folder / f"{module}.log").open("wb")
        self._process = subprocess.Popen(
            [str(python), "-P", "-m", f"peers.{module}"],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(HERE), "PATH": paths, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, do: str, **what: Any) -> Any:
        """Have the peer do something; return what it says. Raises `RuntimeError` with its error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait(10)}; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["is"]

    def close(self) -> None:
        """End the peer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


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

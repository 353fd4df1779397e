"""Whole commands as a user meets them: `--help`, `import tidemill`, the loop of a project that `init` made, and the demo.

    python benchmarks/demo.py [TASK …] --json [--quick]

Tasks: start_up (`--help` and `import tidemill`), init_loop, demo. Wall clock, CPU and peak resident memory of the command and its children (on a
quiet machine of two cores the wall clock is half of the CPU at best). There is no peer: no other tool has the command. The floor of `--help` and
`import` is an interpreter that does nothing. The demo runs as `make demo` runs it, in an environment made for it that has what the demo needs
and nothing else (libraries import what else they find); making it is `setup`. `--quick` replays two months instead of ten in the demo.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kit

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Ran:
    """One command and all its descendants. `largest_mb`: peak resident memory of the largest process; `sum_mb`: of all at one time, pages that
    they share counted once (looked at twice a second, None where /proc cannot tell)."""

    seconds: float
    cpu_s: float
    largest_mb: float
    sum_mb: float | None
    said: str


def run(*command: str, cwd: Path | None = None, python: str = sys.executable) -> Ran:
    """Run Python with these arguments. Raises when the command fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen([python, *command], cwd=cwd, env=ENVIRONMENT, stdout=out, stderr=err)
        ended, seen = threading.Event(), [0.0]
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, seen))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        if process.returncode:
            err.seek(0)
            raise RuntimeError(f"{command} ended with {process.returncode}: {err.read().decode()[-2000:]}")
        out.seek(0)
        return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, seen[0] or None, out.read().decode())


def _watch(root: int, ended: threading.Event, seen: list[float]) -> None:
    """Keep the greatest sum of resident memory of a process and its descendants, in MB."""
    while not ended.wait(0.5):
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        tree = [root]
        for pid in tree:
            tree += parents.get(pid, [])
        seen[0] = max(seen[0], sum(map(_resident_mb, tree)))


def _resident_mb(pid: int) -> float:
    """The process's share of the pages that it has in memory (proportional set size)."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def start_up(rounds: int) -> None:
    """`tidemill --help` and `import tidemill` beside a bare interpreter."""
    measured = kit.interleave(
        {
            "bare interpreter": lambda: run("-c", "pass").seconds,
            "tidemill": lambda: run("-m", "tidemill.cli", "--help").seconds,
            "import tidemill": lambda: run("-c", "import tidemill").seconds,
        },
        rounds,
    )
    kit.report("help", {k: measured[k] for k in ("tidemill", "bare interpreter")}, "s", floor="bare interpreter")
    kit.report(
        "import", {"tidemill": measured["import tidemill"], "bare interpreter": measured["bare interpreter"]}, "s", floor="bare interpreter"
    )


def init_loop(rounds: int) -> None:
    """`tidemill init` and the replay that its output names, in an empty folder."""
    times = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            first = run("-m", "tidemill.cli", "init", "mine", cwd=Path(folder))
            found = re.search(r"tidemill (replay .*)", first.said)
            assert found is not None, first.said
            second = run("-m", "tidemill.cli", *found[1].split(), cwd=Path(folder) / "mine")
            times.append(first.seconds + second.seconds)
    kit.report("init_loop", {"tidemill": times}, "s")


def set_up(folder: Path) -> str:
    """An environment with the requirements of `make demo`, from nothing (but for what pip has cached): its interpreter."""
    made = run("-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    installed = run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[demo]", python=python)
    kit.figure("setup", "tidemill", made.seconds + installed.seconds, "s", n=1)
    return python


def demo(*, quick: bool) -> None:
    """`tidemill demo` on a copy of the example, data included; log loss is what each policy served."""
    with tempfile.TemporaryDirectory() as folder:
        python = set_up(Path(folder) / "environment")
        project = Path(folder) / "examples" / "flights"
        project.mkdir(parents=True)
        for name in ("definitions.py", "make_data.py"):
            (project / name).write_bytes((ROOT / "examples" / "flights" / name).read_bytes())
        for name in ("conf", "schemas"):
            for path in (ROOT / "examples" / "flights" / name).rglob("*.yaml"):
                target = project / path.relative_to(ROOT / "examples" / "flights")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        dates = ["--to", "2013-05-01"] if quick else []
        ran = run("-m", "tidemill.cli", "demo", "--examples", str(project.parent), *dates, cwd=Path(folder), python=python)
        with (project / ".tidemill" / "ledger.db").open("rb"):
            summary = _summary(project / ".tidemill" / "ledger.db")
    trained = sum(policy["trainings"] for policy in summary["policies"])
    kit.figure("demo", "tidemill", ran.seconds, "s", n=1, trainings=trained)
    kit.figure("demo_cpu", "tidemill", ran.cpu_s, "s", n=1)
    kit.figure("demo_largest_process", "tidemill", ran.largest_mb, "MB", n=1)
    if ran.sum_mb:
        kit.figure("demo_all_processes", "tidemill", ran.sum_mb, "MB", n=1)
    losses = {policy["name"]: policy["log_loss"] for policy in summary["policies"]}
    for policy in summary["policies"]:
        facts = {name: policy[name] for name in ("trainings", "promotions", "rollbacks", "auc")}
        kit.figure("demo_log_loss", policy["name"], policy["log_loss"], "nats", n=policy["n"], **facts)
    for name in sorted(losses.keys() - {"never"}):
        kit.figure("demo_gain_over_never", name, losses["never"] - losses[name], "nats", n=1)
    found = re.search(r"([\d,]+) served rows .*: ([\d,]+) of ([\d,]+)", ran.said)
    assert found is not None, ran.said
    kit.figure("demo_parity", "tidemill", float(found[2].replace(",", "")), "values that differ", n=int(found[3].replace(",", "")))


def _summary(ledger: Path) -> dict[str, list[dict[str, Any]]]:
    import sqlite3

    with sqlite3.connect(ledger) as db:
        row = db.execute("SELECT value FROM state WHERE name LIKE 'replay:%'").fetchone()
    found: dict[str, list[dict[str, Any]]] = json.loads(row[0])
    return found


def main() -> None:
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "lightgbm", "duckdb", "pyiceberg", "optuna", "onnxruntime")
    if options.wants("start_up"):
        start_up(5 if options.quick else 11)
    if options.wants("init_loop"):
        init_loop(1 if options.quick else 5)
    if options.wants("demo"):
        demo(quick=options.quick)


if __name__ == "__main__":
    main()

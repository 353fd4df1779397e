"""Whole commands as a user meets them: `--help`, `import tidemill`, the loop of a project that `init` made, and the demo.

    python benchmarks/demo.py [TASK …] --json [--quick]

Wall clock and peak resident memory of the command and its children. There is no peer: no other tool has the command. The floor of `--help`
and `import` is an interpreter that does nothing. `--quick` replays two months instead of ten in the demo.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kit

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def run(*command: str, cwd: Path | None = None) -> tuple[float, float, str]:
    """Seconds, peak MB of the largest process, and what was printed. Raises when the command fails."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.stdout


def start_up(rounds: int) -> None:
    """`tidemill --help` and `import tidemill` beside a bare interpreter."""
    measured = kit.interleave(
        {
            "bare interpreter": lambda: run("-c", "pass")[0],
            "tidemill": lambda: run("-m", "tidemill.cli", "--help")[0],
            "import tidemill": lambda: run("-c", "import tidemill")[0],
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
            first, _, said = run("-m", "tidemill.cli", "init", "mine", cwd=Path(folder))
            found = re.search(r"tidemill (replay .*)", said)
            assert found is not None, said
            second, _, _ = run("-m", "tidemill.cli", *found[1].split(), cwd=Path(folder) / "mine")
            times.append(first + second)
    kit.report("init_loop", {"tidemill": times}, "s")


def demo(*, quick: bool) -> None:
    """`tidemill demo` on a copy of the example, data included; log loss is what each policy served."""
    with tempfile.TemporaryDirectory() as folder:
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
        seconds, peak_mb, said = run("-m", "tidemill.cli", "demo", "--examples", str(project.parent), *dates, cwd=Path(folder))
        with (project / ".tidemill" / "ledger.db").open("rb"):
            summary = _summary(project / ".tidemill" / "ledger.db")
    kit.figure("demo", "tidemill", seconds, "s", n=1, peak_mb=peak_mb)
    for policy in summary["policies"]:
        kit.figure(
            "demo_log_loss", policy["name"], policy["log_loss"], "nats", n=policy["n"], trainings=policy["trainings"], auc=policy["auc"]
        )
    found = re.search(r"([\d,]+) served rows .*: ([\d,]+) of ([\d,]+)", said)
    assert found is not None, said
    kit.figure("demo_parity", "tidemill", float(found[2].replace(",", "")), "values that differ", n=int(found[3].replace(",", "")))


def _summary(ledger: Path) -> dict[str, list[dict[str, object]]]:
    import sqlite3

    with sqlite3.connect(ledger) as db:
        row = db.execute("SELECT value FROM state WHERE name LIKE 'replay:%'").fetchone()
    found: dict[str, list[dict[str, object]]] = json.loads(row[0])
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

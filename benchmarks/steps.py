"""What a pipeline step costs over its function: 20 trivial steps in a row, new and cached, beside the plain Python loop.

    python benchmarks/steps.py --json [--quick]

Each repetition runs the floor and Tidemill in turn in one process, on a ledger and a blob store in a fresh folder. The durability is that of the
embedded stack: steps survive a killed process, the end of a run survives a power cut.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from tidemill import __version__
from tidemill.core.clock import WallClock
from tidemill.ledger.store import Ledger
from tidemill.pipelines import pipeline, step
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.versioning.embedded import FileBlobStore

STEPS = 20


def add(x: int, by: int = 1) -> int:
    """The work."""
    return x + by


add_step = step(add)


@pipeline
def chain(start: int) -> int:
    """20 steps in a row."""
    value = start
    for _ in range(STEPS):
        value = add_step(value)
    return value


def measure(folder: Path, runs: int) -> dict[str, list[float]]:
    """Milliseconds a step of the floor, of new steps, of cached steps, and of laying out the graph."""
    executor = LocalExecutor(Ledger(f"sqlite:///{folder}/ledger.db"), FileBlobStore(folder / "blobs"), default_codecs(), WallClock(), {})
    executor.run(chain.graph(start=-1_000_000), run_id="warm", cause_id="bench")
    out: dict[str, list[float]] = {"floor": [], "new": [], "cached": [], "layout": []}
    for i in range(runs):
        started = time.perf_counter()
        value = i * 1000
        for _ in range(STEPS):
            value = add(value)
        out["floor"].append(time.perf_counter() - started)
        started = time.perf_counter()
        graph = chain.graph(start=i * 1000)
        out["layout"].append(time.perf_counter() - started)
        for kind in ("new", "cached"):
            started = time.perf_counter()
            result = executor.run(graph, run_id=f"{kind}-{i}", cause_id="bench")
            out[kind].append(time.perf_counter() - started)
            assert (result.output, result.ran) == (value, STEPS if kind == "new" else 0)
    return {kind: [1000 * t / STEPS for t in times] for kind, times in out.items()}


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), 5 if asked.quick else 15)
    floor = statistics.median(times["floor"])
    for kind, values in times.items():
        row = {
            "task": f"steps: {kind}, {STEPS} in a row",
            "tool": "plain Python" if kind == "floor" else f"tidemill {__version__}",
            "value": round(statistics.median(values), 5),
            "unit": "ms/step",
            "n": len(values),
            "min": round(min(values), 5),
            "vs_floor": round(statistics.median(values) / floor, 1),
            "vs_best_peer": None,
            "load": round(os.getloadavg()[0], 1),
        }
        print(
            json.dumps(row)
            if asked.json
            else f"{row['task']}: {row['value']} {row['unit']} ({row['tool']}, n={row['n']}, min {row['min']})"
        )


if __name__ == "__main__":
    main()

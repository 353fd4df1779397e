"""window_two_clocks, window_ten, window_busy and window_50m: means and counts over windows on both clocks, beside the floors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import checks, floors
from feature_store.data import EVENTS, make_events, scan, window_view
from feature_store.floors import Float64, Int64
from tidemill.features.embedded import DuckOfflineStore

FLOOR, FLOOR_SQL = "floor-numpy", "floor-range-join"
Spans = list[tuple[int, int]]


def spans_of(windows: int) -> Spans:
    """(over, hop) of the view's windows."""
    return list(dict.fromkeys((a.over_us, a.hop_us) for a in window_view(windows).aggregates))


def columns_of(got: pa.Table, windows: int) -> tuple[list[Float64], list[Float64]]:
    """Counts and means of our answer, window by window."""
    view = window_view(windows)
    counts = [checks.numbers(got[view.full_name(a)]) for a in view.aggregates if a.kind == "count"]
    means = [checks.numbers(got[view.full_name(a)]) for a in view.aggregates if a.kind == "mean"]
    return counts, means


def in_memory(task: str, home: Path, windows: int, rounds: int) -> None:
    """One pass over the events for all windows."""
    spine, spans = pq.read_table(home / "spine.parquet"), spans_of(windows)
    truth = floors.windows_by_sql(home, spans)
    spent, failures = kit.Spent(), dict[str, str]()

    def measured(tool: str, call: Callable[[], Any], shape: Callable[[Any], tuple[Any, Any]]) -> Callable[[], float]:
        def measure() -> float:
            kept: list[Any] = []
            wall = spent.seconds(tool, lambda: kept.append(call()))
            checks.same_windows(*shape(kept[0]), truth)
            return wall

        return measure

    scans = {EVENTS.name: scan(home, EVENTS.name)}
    tools = {
        kit.OURS: measured(
            kit.OURS, lambda: DuckOfflineStore().join(spine, [window_view(windows)], scans), lambda got: columns_of(got, windows)
        ),
        FLOOR: measured(FLOOR, lambda: floors.windows_by_numpy(home, spans), _of_arrays),
        FLOOR_SQL: measured(FLOOR_SQL, lambda: floors.windows_by_sql(home, spans), lambda got: _of_sql(got, windows)),
    }
    found = kit.interleave(tools, rounds, failures=failures)
    facts = {kit.OURS: {"rows_in_window": float(np.mean(checks.numbers(truth["n0"].fill_null(0)))), "windows": windows}}
    kit.report(task, found, "s", floor=FLOOR, extra=spent.facts(**facts), failures=failures)


def _of_arrays(got: list[tuple[Int64, Float64]]) -> tuple[list[Int64], list[Float64]]:
    return [n for n, _ in got], [mean for _, mean in got]


def _of_sql(got: pa.Table, windows: int) -> tuple[list[Float64], list[Float64]]:
    counts = [checks.numbers(got[f"n{i}"].fill_null(0)) for i in range(windows)]
    return counts, [checks.numbers(got[f"m{i}"]) for i in range(windows)]


def limited(tool: str, home: Path, windows: int, *, memory_mb: int, budget_s: float) -> Mapping[str, Any]:
    """One pass in a process of its own that cannot have more memory; its seconds, processor seconds and peak. Raises when it fails."""
    command = [sys.executable, "-m", "feature_store.limited", tool, str(home), str(windows), str(memory_mb)]
    done = subprocess.run(command, cwd=kit.HERE, capture_output=True, text=True, timeout=budget_s, check=False)
    if done.returncode or not done.stdout.startswith("{"):
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise RuntimeError(f"with {memory_mb} MB: {last[:200]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_sample(home: Path, windows: int, answer: Path, *, wanted: int = 3_000) -> None:
    """Compare every n-th row of an answer on disk with the range join of just those rows."""
    got = pq.read_table(answer)
    step = max(1, got.num_rows // wanted)
    truth = floors.windows_by_sql(home, spans_of(windows), sample=step, memory="4GB")
    part = got.take(pa.array(np.arange(0, got.num_rows, step)))
    checks.same_windows(*columns_of(part, windows), truth)


def large(task: str, folder: Path, sizes: tuple[int, int, int], *, rounds: int, memory_mb: int = 4096, budget_s: float = 1800) -> None:
    """Events that do not fit: it has to finish within the limit, and take as long for each row as for a tenth of the rows."""
    events, keys, spine = sizes
    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    small, big = make_events(folder, events // 10, keys, spine), make_events(folder, events, keys, spine)

    def measured(tool: str) -> Callable[[], float]:
        def measure() -> float:
            tenth = limited(tool, small, 1, memory_mb=memory_mb, budget_s=budget_s)
            whole = limited(tool, big, 1, memory_mb=memory_mb, budget_s=budget_s)
            if tool == kit.OURS:
                check_sample(big, 1, big / f"{tool}.parquet")
            growth = float(np.log10(whole["s"] / tenth["s"]))
            facts[tool] = {"cpu_s": whole["cpu_s"], "peak_mb": whole["peak_mb"], "tenth_s": tenth["s"], "exponent": growth}
            return float(whole["s"])

        return measure

    tools = {name: measured(name) for name in (kit.OURS, FLOOR_SQL)}
    found = kit.interleave(tools, rounds, slow={FLOOR_SQL: 1}, failures=failures)
    kit.report(task, found, "s", floor=FLOOR_SQL, extra=facts, failures=failures)

"""scaling_rows, scaling_keys and scaling_windows: seconds of one pass as one size grows, and the exponent of the growth.

Each point is a process of its own with a limit on its memory. The exponent is the slope of log seconds over log size, between the
points that take longer than a second; n log n has 1.05 to 1.07 in these ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kit
import numpy as np

from feature_store.data import Sizes, make_events
from feature_store.windows import check_sample, limited

BUDGET_S = 900.0
MEMORY_MB = 8192


def _points(task: str, sizes: Sizes, *, quick: bool) -> Iterator[tuple[int, tuple[int, int, int], int]]:
    """x, (events, keys, spine rows), windows."""
    base = (sizes.events, sizes.keys, sizes.window_spine)
    if task == "scaling_rows":
        for events in (10_000, 100_000, 1_000_000) if quick else (100_000, 1_000_000, 10_000_000, 100_000_000):
            yield events, (events, sizes.keys, sizes.window_spine), 1
    elif task == "scaling_keys":
        for keys in (100, 1_000, 10_000, 100_000) if quick else (100, 1_000, 10_000, 100_000, 1_000_000):
            yield keys, (sizes.events, keys, sizes.window_spine), 1
    else:
        for windows in (1, 2, 5, 10):
            yield windows, base, windows


def scaling(task: str, folder: Path, sizes: Sizes, *, quick: bool) -> None:
    """One figure for each point, and the exponent."""
    seen: list[tuple[float, float]] = []
    for x, (events, keys, spine), windows in _points(task, sizes, quick=quick):
        home = make_events(folder, events, keys, spine)
        try:
            found = [limited(kit.OURS, home, windows, memory_mb=MEMORY_MB, budget_s=BUDGET_S) for _ in range(1 if events > 10**7 else 3)]
            check_sample(home, windows, home / f"{kit.OURS}.parquet", wanted=1_000)
        except Exception as error:
            kit.failed(task, kit.OURS, f"{x:,}: {type(error).__name__}: {error}"[:300])
            continue
        median = sorted(found, key=lambda f: f["s"])[len(found) // 2]
        seen.append((x, median["s"]))
        facts: dict[str, Any] = {"x": x, "cpu_s": median["cpu_s"], "peak_mb": median["peak_mb"]}
        kit.figure(task, kit.OURS, median["s"], "s", n=len(found), **facts)
    grown = exponent(seen)
    if grown is not None:
        kit.figure(f"{task}_exponent", kit.OURS, grown, "", n=len(seen))


def exponent(points: Sequence[tuple[float, float]], at_least_s: float = 1.0) -> float | None:
    """The slope of log seconds over log size among the points above `at_least_s`, the whole range where there are not two."""
    long = [p for p in points if p[1] >= at_least_s]
    used = long if len(long) >= 2 else list(points)
    if len(used) < 2:
        return None
    x, y = np.log([p[0] for p in used]), np.log([p[1] for p in used])
    return float(np.polyfit(x, y, 1)[0])


PLANS = dict.fromkeys(("scaling_rows", "scaling_keys", "scaling_windows"), scaling)

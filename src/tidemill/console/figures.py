"""Figures that pages work out of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BINS = 28


def quantile(ordered: Sequence[float], q: float) -> float:
    """The value at rank q of sorted values, nearest rank."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def latency(values_us: Sequence[int]) -> dict[str, Any] | None:
    """Median and tail in milliseconds with a histogram up to the 99th percentile; None for nothing measured."""
    ordered = sorted(v / 1000 for v in values_us if v > 0)
    if not ordered:
        return None
    low, top = ordered[0], quantile(ordered, 0.99)
    width = (top - low) / BINS or 1.0
    counts = [0] * BINS
    for value in ordered:
        counts[min(BINS - 1, int((value - low) / width))] += 1
    edges = [low + width * i for i in range(BINS + 1)]
    return {
        "p50": quantile(ordered, 0.5),
        "p95": quantile(ordered, 0.95),
        "p99": quantile(ordered, 0.99),
        "n": len(ordered),
        "edges": edges,
        "counts": counts,
    }

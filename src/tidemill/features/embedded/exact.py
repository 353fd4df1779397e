"""Exact sums of floats: nothing is lost to rounding or cancellation until the last step.

Offline, a column becomes a few columns of integers (`split`), whose running sums and differences are exact, and
`join` rounds once. Online, a sum is a list of floats that do not overlap (`grow`), from which any value can be taken out again.
Both end within one or two units in the last place of the true sum, so they are equal for every purpose. Source of `grow`:
Shewchuk, *Adaptive Precision Floating-Point Arithmetic* (1997), as in Python's `math.fsum`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidemill.features.embedded.source import Float64, Int64

_BITS = 30
"""Bits of a part: 2^33 of them add up within 63 bits."""


def split(values: Float64) -> tuple[list[Int64], int]:
    """Write finite floats as sum of `parts[i] * 2**(base + 30 i)`, exactly; NaN counts as zero."""
    values = np.nan_to_num(values, nan=0.0)
    mantissa, exponent = np.frexp(values[values != 0])
    if not len(mantissa):
        return [np.zeros(len(values), dtype=np.int64)], 0
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    base, top = int((exponent - 53 + lowest).min()), int(exponent.max())
    parts: list[Int64] = []
    rest = values
    for i in reversed(range(max(1, -(-(top - base) // _BITS)))):
        shift = base + _BITS * i
        part = np.trunc(np.ldexp(rest, -shift))
        rest = rest - np.ldexp(part, shift)
        parts.append(part.astype(np.int64))
    return parts[::-1], base


def join(parts: Sequence[Int64], base: int) -> Float64:
    """Round sums of what `split` gave to float64."""
    parts = list(parts)
    for i in range(len(parts) - 1):
        parts[i + 1] = parts[i + 1] + (parts[i] >> _BITS)
        parts[i] = parts[i] & ((1 << _BITS) - 1)
    with np.errstate(over="ignore"):
        total = np.zeros(len(parts[0]))
        for i in reversed(range(len(parts))):
            total = total + np.ldexp(parts[i].astype(np.float64), base + _BITS * i)
    return np.asarray(total, dtype=np.float64)


def grow(partials: list[float], value: float) -> None:
    """Add `value` to the exact sum `partials`, in place; the sum zero is the empty list."""
    i = 0
    for partial in partials:
        if abs(value) < abs(partial):
            value, partial = partial, value
        high = value + partial
        low = partial - (high - value)
        if low:
            partials[i] = low
            i += 1
        value = high
    partials[i:] = [value] if value else []


def total(partials: Sequence[float]) -> float:
    """Round an exact sum (or several, one after the other) to a float; beyond the range of floats, infinity."""
    try:
        return math.fsum(partials)
    except OverflowError:
        return math.copysign(math.inf, max(partials, key=abs))

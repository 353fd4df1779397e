"""Exact sums of floats: nothing is lost to rounding or cancellation until the last step.

Offline, a column becomes a few columns of integers (`split`), whose running sums and differences are exact, and
`join` rounds once. Online, a sum is a list of floats that do not overlap (`grow`), from which any value can be taken out again.
Both end in the float that is nearest to the true sum, so they are equal, and no other row of the column changes them. Source of `grow`:
Shewchuk, *Adaptive Precision Floating-Point Arithmetic* (1997), as in Python's `math.fsum`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tidemill.features.embedded.source import Float64, Int64

BITS = 30
"""Bits of a part: 2^33 of them add up within 63 bits."""
_TIE = 1e-6


def split(values: Float64, bits: int = BITS) -> tuple[list[Int64], int]:
    """Write finite floats as sum of `parts[i] * 2**(base + bits i)`, exactly; NaN counts as zero. 2**(63 - bits) of them can be added."""
    values = np.nan_to_num(values, nan=0.0)
    mantissa, exponent = np.frexp(values[values != 0])
    if not len(mantissa):
        return [np.zeros(len(values), dtype=np.int64)], 0
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    base, top = int((exponent - 53 + lowest).min()), int(exponent.max())
    parts: list[Int64] = []
    rest = values
    for i in reversed(range(max(1, -(-(top - base) // bits)))):
        shift = base + bits * i
        part = np.trunc(np.ldexp(rest, -shift))
        rest = rest - np.ldexp(part, shift)
        parts.append(part.astype(np.int64))
    return parts[::-1], base


def split_squares(parts: Sequence[Int64], base: int) -> tuple[list[Int64], int]:
    """The squares of what `split` wrote, as sum of `squares[i] * 2**(base + 30 i)`, exactly; each part is small enough to be summed."""
    squares = [np.zeros(len(parts[0]), dtype=np.int64) for _ in range(2 * len(parts))]
    for i, one in enumerate(parts):
        for j, other in enumerate(parts):
            product = one * other
            high = product >> BITS
            squares[i + j] += product - (high << BITS)
            squares[i + j + 1] += high
    return squares, 2 * base


def bits_for(count: int) -> int:
    """How wide parts may be for `count` of them to be added within 63 bits: the wider, the fewer."""
    return min(62 - count.bit_length(), 50)


def whole(parts: Sequence[Int64], bits: int = BITS) -> npt.NDArray[np.object_]:
    """Sums of parts as Python integers, in units of `2**base`."""
    total = np.zeros(len(parts[0]), dtype=object)
    for i, part in enumerate(parts):
        total = total + part.astype(object) * (1 << (bits * i))
    return total


def deviation(count: int, total: int, squares: int, base: int) -> float:
    """Standard deviation (n - 1) of `count` > 1 numbers from their exact sum in units of 2**base and that of their squares in 2**(2 base)."""
    numerator, denominator = count * squares - total * total, count * (count - 1)
    shift = 128 - numerator.bit_length() + denominator.bit_length()
    shift += shift % 2
    root = math.isqrt((numerator << shift if shift > 0 else numerator >> -shift) // denominator)
    try:
        return math.ldexp(root, base - shift // 2)
    except OverflowError:
        return math.inf


def join_parts(parts: Sequence[Int64], base: int) -> list[list[float]]:
    """Sums of what `split` gave, each as a few floats that add up to it exactly, least first."""
    return [list(row) for row in zip(*(column.tolist() for column in _floats(parts, base, BITS)), strict=True)]


def join(parts: Sequence[Int64], base: int, bits: int = BITS) -> Float64:
    """Round sums of what `split` gave to float64, once: to the float that is nearest to the sum, whatever else was split with it."""
    least, *greater = columns = _floats(parts, base, bits)
    if not greater:
        return least
    total, rest = np.zeros(len(least)), np.zeros(len(least))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in reversed(columns):
            new = total + part
            back = new - total
            rest += (total - (new - back)) + (part - back)
            total = new
        found = total + rest
        half = np.spacing(np.abs(found)) / 2
        missing = np.abs((total - found) + rest)
        near = (np.abs(missing - half) <= half * _TIE) | (np.abs(missing - half / 2) <= half * _TIE)
    places = np.flatnonzero((near & (half > 0)) | ~np.isfinite(found))  # a tie, or nearly, is decided by what was rounded off
    for place, mantissa in zip(places, whole([part[places] for part in parts], bits), strict=True):
        found[place] = _nearest(mantissa, base)
    return np.asarray(found, dtype=np.float64)


def _floats(parts: Sequence[Int64], base: int, bits: int) -> list[Float64]:
    """Sums of what `split` gave as columns of floats that add up to them exactly, least first."""
    parts = list(parts)
    for i in range(len(parts) - 1):
        parts[i + 1] = parts[i + 1] + (parts[i] >> bits)
        parts[i] = parts[i] & ((1 << bits) - 1)
    shifts = [base + bits * i for i in range(len(parts))]
    if np.abs(parts[-1]).max(initial=0) >= 1 << 53:  # more than a float holds
        high = parts.pop()
        parts += [high & ((1 << BITS) - 1), high >> BITS << BITS]
        shifts.append(shifts[-1])
    with np.errstate(over="ignore"):
        return [np.asarray(np.ldexp(part.astype(np.float64), shift)) for part, shift in zip(parts, shifts, strict=True)]


def _nearest(mantissa: int, exponent: int) -> float:
    """The float that is nearest to `mantissa * 2**exponent`; beyond the range of floats, infinity."""
    sign, size = (-1.0 if mantissa < 0 else 1.0), abs(mantissa)
    more = max(0, size.bit_length() - 66)
    try:
        return sign * math.ldexp(size >> more | bool(size & ((1 << more) - 1)), exponent + more)
    except OverflowError:
        return sign * math.inf


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


def scaled(value: float) -> tuple[int, int]:
    """A finite float as (mantissa, exponent): value = mantissa * 2**exponent, mantissa odd or 0."""
    numerator, denominator = value.as_integer_ratio()
    if denominator > 1:
        return numerator, 1 - denominator.bit_length()
    low = (numerator & -numerator).bit_length() - 1 if numerator else 0
    return numerator >> low, low


def add(number: list[int], mantissa: int, exponent: int) -> None:
    """Add `mantissa * 2**exponent` to the exact number [mantissa, exponent], in place."""
    if not number[0]:
        number[:] = [mantissa, exponent]
        return
    if exponent < number[1]:
        number[:] = [(number[0] << (number[1] - exponent)) + mantissa, exponent]
    else:
        number[0] += mantissa << (exponent - number[1])


def exact_total(partials: Sequence[float]) -> list[int]:
    """An exact sum as [mantissa, exponent]."""
    number = [0, 0]
    for partial in partials:
        add(number, *scaled(partial))
    return number


def deviation_of(count: int, partials: Sequence[float], squares: Sequence[list[int]]) -> float:
    """Standard deviation (n - 1) of `count` > 1 numbers from their exact sum and exact sums of their squares."""
    mantissa, exponent = exact_total(partials)
    power = [0, 0]
    for one in squares:
        add(power, *one)
    if exponent % 2 == 0 and power[0] == 0:
        return deviation(count, mantissa, 0, exponent)
    base = min(exponent, power[1] // 2)
    return deviation(count, mantissa << (exponent - base), power[0] << (power[1] - 2 * base), base)


def total(partials: Sequence[float]) -> float:
    """Round an exact sum (or several, one after the other) to a float; beyond the range of floats, infinity."""
    try:
        return math.fsum(partials)
    except OverflowError:
        return math.copysign(math.inf, max(partials, key=abs))

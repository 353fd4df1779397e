"""What approximate features share wherever they are computed: hashes of values, buckets of numbers.

Both depend on the set (or multiset) of values alone, so any order, any cut into tiles and any engine give the same answer.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

KEPT = 1024
"""How many of the least hashes a distinct count keeps; below, it is exact."""
HASH_BITS = 60
"""A hash is the first 15 hex digits of the MD5 of the value's text, which SQL engines can compute as well."""
_SHIFT = 52 - 8
_SIGN = np.int64(-(2**63))


def text_of(value: Any) -> str:
    """A value as it is hashed: texts as they are, integers in decimal, booleans as true and false."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


@lru_cache(maxsize=65536)
def hash_of(text: str) -> int:
    """0 to 2^60 - 1."""
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def distinct_of(count: int, greatest_kept: int) -> int:
    """The number of different values from `count` different hashes (at most `KEPT`) of which the greatest is `greatest_kept`.

    Source: Bar-Yossef et al. 2002; unbiased form (k - 1) / U_(k) of Beyer et al., *On Synopses for Distinct-Value Estimation* (2007).
    """
    if count < KEPT:
        return count
    return round((KEPT - 1) * 2.0**HASH_BITS / greatest_kept)


def bucket_of(value: float) -> int:
    """The bucket of a finite number: its sign, exponent and 8 bits of mantissa; greater numbers have greater buckets."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits >> _SHIFT if bits >= 0 else -((bits & (2**63 - 1)) >> _SHIFT)


def buckets_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """`bucket_of` for an array."""
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64)
    magnitude = (bits & ~_SIGN) >> _SHIFT
    return np.where(bits < 0, -magnitude, magnitude)


def edge_of(bucket: int) -> float:
    """The number of a bucket that is nearest to zero: whole numbers up to 512 are edges."""
    return float(edges_of(np.array([bucket], dtype=np.int64))[0])


def edges_of(buckets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`edge_of` for an array."""
    edge = (np.abs(buckets) << _SHIFT).view(np.float64)
    return np.where(buckets < 0, -edge, edge)

"""From 64-bit hashes to the numbers of rows, for many at once: sorted runs that are merged when they are of one size."""

from __future__ import annotations

import numpy as np

from tidemill.features.embedded.hashing import UInt64
from tidemill.features.embedded.source import Int64

_Run = tuple[UInt64, Int64]
_FACTOR = 4
"""A run is at least so many times as long as the one behind it; so there are few, and a row is copied few times."""


class Index:
    """Any number of numbers for each hash; 16 bytes each. Several threads may look for hashes while none adds any."""

    def __init__(self) -> None:
        self._held: tuple[tuple[_Run, ...], tuple[_Run, ...]] = (), ()

    def add(self, hashes: UInt64, numbers: Int64) -> None:
        """Note that `numbers[i]` belongs to `hashes[i]`; they are sorted when something is looked for, which may be never."""
        if len(hashes):
            runs, unsorted = self._held
            self._held = runs, (*unsorted, (hashes, numbers))

    def _runs(self) -> tuple[_Run, ...]:
        runs, unsorted = self._held
        if unsorted:
            made = list(runs)
            for hashes, numbers in unsorted:
                order = np.argsort(hashes, kind="stable")
                made.append((hashes[order], numbers[order]))
                while len(made) > 1 and len(made[-2][0]) < _FACTOR * len(made[-1][0]):
                    last, before = made.pop(), made.pop()
                    made.append(_merged(before, last))
            runs = tuple(made)
            self._held = runs, ()  # at once: who looks at the same time finds either
        return runs

    def find(self, hashes: UInt64) -> tuple[Int64, Int64]:
        """All pairs of a place in `hashes` and a number that belongs to the hash there; quickest when `hashes` are sorted."""
        places: list[Int64] = []
        numbers: list[Int64] = []
        for known, owned in self._runs():
            low = np.searchsorted(known, hashes, side="left")
            hit = np.flatnonzero(known[np.minimum(low, len(known) - 1)] == hashes)
            if not len(hit):
                continue
            low = low[hit]
            count = np.searchsorted(known, hashes[hit], side="right") - low
            places.append(np.repeat(hit, count))
            steps = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            numbers.append(owned[np.repeat(low, count) + steps])
        if not places:
            none = np.zeros(0, dtype=np.int64)
            return none, none
        return np.concatenate(places), np.concatenate(numbers)


def _merged(one: _Run, other: _Run) -> _Run:
    place = np.searchsorted(one[0], other[0], side="right") + np.arange(len(other[0]))
    rest = np.ones(len(one[0]) + len(other[0]), dtype=bool)
    rest[place] = False
    hashes, numbers = np.empty(len(rest), dtype=np.uint64), np.empty(len(rest), dtype=np.int64)
    hashes[place], numbers[place] = other
    hashes[rest], numbers[rest] = one
    return hashes, numbers

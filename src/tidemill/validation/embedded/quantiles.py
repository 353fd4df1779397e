"""A mergeable summary of a distribution that always comes out the same.

Levels of sorted values, a value at level h standing for 2^h of the input. A level that reaches 2K values is sorted and every
second one moves up; which of the two goes alternates, so errors cancel. That is the scheme of Manku, Rajagopalan and Lindsay
(SIGMOD 1998) with the levels of KLL (Karnin, Lang, Liberty, FOCS 2016), where a coin decides. No coin here, because a replay of
history must write the same bytes again (datasketches' KLL cannot be seeded). A bulk of n values is sorted once in NumPy, and
each of its about log2(n / K) compactions adds a rank error of at most one value of its level: under 1/K of n together.
"""

import numpy as np
import numpy.typing as npt

K = 128
Floats = npt.NDArray[np.float64]


class Quantiles:
    """An immutable quantile summary of finite numbers; exact below 2K = 256 values."""

    __slots__ = ("_levels", "_parity", "n")

    def __init__(self, levels: tuple[Floats, ...] = (), parity: int = 0) -> None:
        """`levels[h]` is sorted, each value standing for 2^h; bit h of `parity` says which half moves up next."""
        self._levels = levels
        self._parity = parity
        self.n = sum(len(level) << h for h, level in enumerate(levels))

    @classmethod
    def of(cls, values: Floats) -> "Quantiles":
        """Summarise finite `values`, (n,), any order."""
        return _compact([np.sort(values)], 0)

    def merge(self, other: "Quantiles") -> "Quantiles":
        """The summary of both inputs together."""
        small, large = sorted((self._levels, other._levels), key=len)
        levels = [np.sort(np.concatenate([level, small[h]])) if h < len(small) else level for h, level in enumerate(large)]
        return _compact(levels, self._parity ^ other._parity)

    def below(self, points: Floats) -> Floats:
        """How many of the inputs are <= each of `points`."""
        counts = [np.searchsorted(level, points, side="right") << h for h, level in enumerate(self._levels)]
        return np.sum(counts, axis=0, dtype=np.float64) if counts else np.zeros(len(points))

    def at(self, ranks: Floats) -> Floats:
        """The least values with at least a share of `ranks` (0 to 1) of the inputs at or below them; needs n > 0."""
        values = np.concatenate(self._levels)
        weights = np.concatenate([np.full(len(level), 1 << h) for h, level in enumerate(self._levels)])
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order])
        index = np.searchsorted(reached, np.ceil(ranks * self.n - 1e-9), side="left")
        picked: Floats = values[order][np.minimum(index, len(values) - 1)]
        return picked

    def pack(self) -> tuple[int, list[bytes]]:
        """What `unpack` reads: the parity bits and each level as little-endian doubles."""
        return self._parity, [level.astype("<f8").tobytes() for level in self._levels]

    @classmethod
    def unpack(cls, parity: int, levels: list[bytes]) -> "Quantiles":
        """Read what `pack` gave."""
        return cls(tuple(np.frombuffer(level, dtype="<f8") for level in levels), parity)


def _compact(levels: list[Floats], parity: int) -> Quantiles:
    h = 0
    while h < len(levels):
        level = levels[h]
        if len(level) >= 2 * K:
            pairs = len(level) // 2 * 2
            up = level[(parity >> h) & 1 : pairs : 2]
            levels[h] = level[pairs:]
            if h + 1 == len(levels):
                levels.append(up)
            else:
                levels[h + 1] = np.sort(np.concatenate([levels[h + 1], up]))
            parity ^= 1 << h
        h += 1
    return Quantiles(tuple(levels), parity)

"""Standard deviations that lose nothing to cancellation, though tiles are merged in floats.

A tile keeps its size, a number close to its mean, and the sum and the sum of squares of the distances from it. Merged, they are moved to one
number close to the mean of all. What is subtracted at the end is then tiny, and rounding stays within a few units in the last place.
Numbers that are so large or small that squares leave the range of floats are scaled by a power of two, which is exact.

Source: the corrected two-pass algorithm of Chan, Golub and LeVeque, *Algorithms for Computing the Sample Variance* (1983), by tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

_ZERO = "CAST(0 AS DOUBLE)"


@dataclass(frozen=True, slots=True)
class Spread:
    """The standard deviation of one column of numbers (a quoted name)."""

    column: str

    def _own(self, letter: str) -> str:
        return f'"_{letter}_{self.column[1:-1]}"'

    @property
    def alias(self) -> str:
        """A name for the relation that `finished` makes."""
        return self._own("relation")

    @property
    def _name(self) -> str:
        return self._own("std")

    def prepared(self, pieces: str, piece: str) -> str:
        """Add to pieces, of which those with equal `piece` become a tile, the tile's scale and a number close to its mean."""
        x, low, high, mean = self.column, self._own("low"), self._own("high"), self._own("mean")
        ends = ", ".join(f"{f}({x}) OVER (PARTITION BY {piece}) AS {name}" for f, name in (("MIN", low), ("MAX", high), ("AVG", mean)))
        near = f"LEAST(GREATEST({mean}, {low}), {high}) AS {self._own('near')}, {_scale(low, high)} AS {self._own('scale')}"
        return f"SELECT *, {near} FROM (SELECT *, {ends} FROM ({pieces}) AS {self._own('pieces')}) AS {self._own('ended')}"

    @property
    def folded(self) -> dict[str, str]:
        """A tile."""
        x, near, scale = self.column, self._own("near"), self._own("scale")
        far = f"({x} * {scale} - {near} * {scale})"
        parts = {
            "n": f"COUNT({x})",
            "low": f"MIN({x})",
            "high": f"MAX({x})",
            "near": f"MIN({near})",
            "scale": f"MIN({scale})",
            "a": f"SUM({far})",
            "b": f"SUM({far} * {far})",
        }
        return {self._name: "{" + ", ".join(f"'{name}': {text}" for name, text in parts.items()) + "}"}

    @property
    def again(self) -> dict[str, str]:
        """What a question meets: a list of tiles, how many values they hold, the least and the greatest."""
        tile = self._name
        return {
            self._own("tiles"): f"LIST({tile}) FILTER (WHERE {tile}.n > 0)",
            self._own("n"): f"SUM({tile}.n)",
            self._own("low"): f"MIN({tile}.low)",
            self._own("high"): f"MAX({tile}.high)",
        }

    def finished(self, found: str) -> str:
        """`found` with the standard deviation; null for fewer than two values, zero when all are equal."""
        tiles, n, low, high, scale, near, moved = (self._own(x) for x in ("tiles", "n", "low", "high", "scale", "near", "moved"))
        scaled = f"SELECT *, {_scale(low, high)} AS {scale} FROM {found}"
        total = f"TM_FOLD({tiles}, {_ZERO}, LAMBDA s, x : s + x.n * (x.near * {scale}))"
        middle = f"SELECT *, LEAST(GREATEST({total} / NULLIF({n}, 0), {low} * {scale}), {high} * {scale}) AS {near} FROM ({scaled}) AS {self._own('scaled')}"
        by, far = f"({scale} / x.scale)", f"(x.near * {scale} - {near})"
        a = f"s.a + x.a * {by} + x.n * {far}"
        b = f"s.b + x.b * {by} * {by} + 2 * {far} * x.a * {by} + x.n * {far} * {far}"
        fold = f"TM_FOLD({tiles}, {{'a': {_ZERO}, 'b': {_ZERO}}}, LAMBDA s, x : {{'a': {a}, 'b': {b}}})"
        both = f"SELECT *, {fold} AS {moved} FROM ({middle}) AS {self._own('middle')}"
        variance = f"({moved}.b - {moved}.a * {moved}.a / {n}) / ({n} - 1)"
        value = f"CASE WHEN {low} = {high} THEN {_ZERO} ELSE SQRT(GREATEST({variance}, {_ZERO})) / {scale} END"
        return f"SELECT *, CASE WHEN {n} > 1 THEN {value} END AS {self._name} FROM ({both}) AS {self._own('both')}"


def _scale(low: str, high: str) -> str:
    """A power of two that brings numbers from `low` to `high` where they can be squared."""
    size = f"GREATEST(ABS({low}), ABS({high}))"
    return f"CASE WHEN {size} > 1e100 THEN POWER(2, -600) WHEN {size} < 1e-100 THEN POWER(2, 600) ELSE CAST(1 AS DOUBLE) END"

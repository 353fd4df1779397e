"""A runtime whose trees are compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tidemill.adapters.numba.forest import Forest, read_forest
from tidemill.adapters.numba.kernels import in_blocks, one_by_one
from tidemill.core.errors import InvalidError
from tidemill.serving.ports import Matrix, Runtime

logger = logging.getLogger(__name__)
_FEW = 18
"""Fewer rows are scored one by one: a block takes as long as these, however empty."""


def open_runtime(_url: str, embedded: Callable[..., Runtime]) -> Runtime:
    """The entry point: LightGBM's trees by compiled kernels, all else by the embedded runtime."""
    return embedded(trees=compiled)


def compiled(native: Path, width: int) -> Callable[[Matrix], Matrix] | None:
    """How a model that LightGBM saved scores (n, width) by compiled trees, or None when it is none that can be; the log says why."""
    try:
        forest = read_forest(native.read_text("utf-8"))
        if forest.width != width:
            raise InvalidError(f"it takes {forest.width} features, the model lists {width}")
    except (InvalidError, ValueError, KeyError, IndexError) as error:
        logger.info("trees.not_compiled", extra={"reason": str(error)})
        return None
    try:
        return Trees(forest).score
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises (no room for its cache, a processor that it does not know), others can score
        logger.warning("trees.not_compiled", extra={"reason": f"the compiler failed: {str(error)[:300]}"})
        return None


class Trees:
    """A forest that scores. What has to be compiled is compiled when it is made."""

    def __init__(self, forest: Forest) -> None:
        f, full = forest, forest.masks.dtype.type(~forest.masks.dtype.type(0))
        ending = (f.leaves, full, f.link, f.scale)
        self.width = forest.width
        self._few = (f.columns, f.fills, f.starts, f.trees, f.thresholds, f.masks, f.kinds, f.owners, f.losses, f.ends, f.words, *ending)
        self._many = (f.columns, f.fills, f.firsts, f.numbers, f.levels, f.clears, f.sets, f.kinds, f.losses, f.ends, f.words, *ending)
        for rows in (1, _FEW):
            self.score(np.zeros((rows, forest.width)))

    def score(self, x: Matrix) -> Matrix:
        """Scores (n,) of (n, features), nulls NaN: the numbers that LightGBM gives, bit by bit."""
        if not (x.flags.c_contiguous and x.flags.writeable):  # arrays of another kind would have the kernels compiled once more
            x = np.array(x, dtype=np.float64, order="C")
        out = np.empty(len(x))
        if len(x) < _FEW:
            one_by_one(x, out, *self._few)
        else:
            in_blocks(x, out, *self._many)
        return out

"""Scoring by the masks of a `Forest`, compiled by Numba for the processor at hand.

Few rows are scored one by one, asking only nodes that clear something; many rows 64 at a time, the same node of all of them in a few instructions.
Leaves are added in the order of the trees, as LightGBM does, so that answers are equal to its to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

# constants of the kernels stand here: machine code that is kept holds their values, and is made anew when this file changes, not another
Array = npt.NDArray[Any]
LINKS = ("identity", "sigmoid", "exponential")
SIGMOID, EXPONENTIAL = 1, 2
LARGEST = float(np.finfo(np.float64).max)
"""Values and thresholds are at most this; what stands for a missing value is larger, so that it stays apart under an endless threshold too."""
F = TypeVar("F", bound=Callable[..., Any])
BLOCK = 64
_LIMIT = float(1 << 30)


def _compiled(function: F) -> F:
    """Machine code of a function, made when it is first called and kept on disk where there is a place for that. Other threads go on meanwhile."""
    options: Any = {"boundscheck": False, "error_model": "numpy", "nogil": True}
    try:
        made: F = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: compiled anew by each process
        made = njit(**options)(function)
    return made


def _lowest(_context: Any, mask: Any) -> Any:
    """The place of a mask's lowest bit."""

    def made(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return mask(mask), made


def _number(value: float, fill: float) -> float:
    """A value as thresholds are compared with it."""
    return fill if math.isnan(value) else min(value, LARGEST)


def _linked(total: float, link: int, scale: float) -> float:
    """An answer from a sum of leaves."""
    if link == SIGMOID:
        return 1.0 / (1.0 + math.exp(-scale * total))
    if link == EXPONENTIAL:
        return math.exp(total)
    return total


def _above(thresholds: Array, low: Any, high: Any, value: float) -> Any:
    """Up to where, from `low` to `high`, the value is above thresholds that grow."""
    while low < high:
        middle = (low + high) >> np.uint32(1)
        if thresholds[middle] < value:
            low = middle + np.uint32(1)
        else:
            high = middle
    return low


def _outside(value: float, words: Array, start: Any, end: Any) -> bool:
    """Whether a category's code is not among the bits of `words[start:end]`."""
    code = int(value) if value > -1.0 and value < _LIMIT else -1
    return code < 0 or (code >> 5) >= end - start or not (words[start + (code >> 5)] >> (code & 31)) & 1


def _transposed(x: Array, start: int, rows: int, columns: Array, fills: Array, values: Array) -> None:
    """The numbers of some rows, by column, with what stands for missing ones."""
    for c in range(columns.shape[0]):
        for i in range(rows):
            value = x[start + i, columns[c]]
            values[c, i] = number(value, fills[c])


lowest: Any = intrinsic(_lowest)
linked, above, outside, number = _compiled(_linked), _compiled(_above), _compiled(_outside), _compiled(_number)
transposed = _compiled(_transposed)


def _one_by_one(
    x: Array,
    out: Array,
    columns: Array,
    fills: Array,
    starts: Array,
    trees: Array,
    thresholds: Array,
    masks: Array,
    kinds: Array,
    owners: Array,
    losses: Array,
    ends: Array,
    words: Array,
    leaves: Array,
    full: Any,
    link: int,
    scale: float,
) -> None:
    """Scores (n,) of rows (n, width) into `out`; the others as `Forest` has them, `full` a mask with all bits."""
    many = leaves.shape[0]
    left = np.empty(many, masks.dtype)
    for row in range(x.shape[0]):
        left[:] = full
        for c in range(columns.shape[0]):
            value = number(x[row, columns[c]], fills[c])
            for k in range(starts[c], above(thresholds, starts[c], starts[c + 1], value)):
                left[trees[k]] &= masks[k]
        for k in range(kinds.shape[0]):
            if outside(x[row, kinds[k]], words, ends[k], ends[k + 1]):
                left[owners[k]] &= losses[k]
        total = 0.0
        for t in range(many):
            total += leaves[t, lowest(left[t])]
        out[row] = linked(total, link, scale)


def _narrowed(left: Array, values: Array, level: float, mask: Any, full: Any) -> None:
    """Ask one node of a block: a value above its level loses what the mask clears."""
    for i in range(BLOCK):
        left[i] = left[i] & (mask if values[i] > level else full)


narrowed = _compiled(_narrowed)


def _in_blocks(
    x: Array,
    out: Array,
    columns: Array,
    fills: Array,
    firsts: Array,
    numbers: Array,
    levels: Array,
    clears: Array,
    sets: Array,
    kinds: Array,
    losses: Array,
    ends: Array,
    words: Array,
    leaves: Array,
    full: Any,
    link: int,
    scale: float,
) -> None:
    """The same, `BLOCK` rows at a time: a node is asked for all of them at once."""
    values, left, totals = np.zeros((columns.shape[0], BLOCK)), np.empty(BLOCK, clears.dtype), np.empty(BLOCK)
    for start in range(0, x.shape[0], BLOCK):
        rows = min(BLOCK, x.shape[0] - start)
        transposed(x, start, rows, columns, fills, values)
        totals[:] = 0.0
        for t in range(leaves.shape[0]):
            left[:] = full
            for k in range(firsts[t], firsts[t + 1]):
                narrowed(left, values[numbers[k]], levels[k], clears[k], full)
            for k in range(sets[t], sets[t + 1]):
                for i in range(rows):
                    if outside(x[start + i, kinds[k]], words, ends[k], ends[k + 1]):
                        left[i] &= losses[k]
            for i in range(rows):
                totals[i] += leaves[t, lowest(left[i])]
        for i in range(rows):
            out[start + i] = linked(totals[i], link, scale)


one_by_one, in_blocks = _compiled(_one_by_one), _compiled(_in_blocks)

"""LightGBM's trees as arrays of bit masks, from the text that it saves.

The leaves of a tree are bits, from left to right. A node whose condition fails clears the bits below its left side; the lowest bit that is left
when all nodes were asked is the leaf. Nodes may so be asked in any order, and no jump depends on data that a processor cannot foretell.

Source: Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees", SIGIR 2015.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from tidemill.adapters.numba.kernels import LARGEST, LINKS, Array
from tidemill.core.errors import InvalidError
from tidemill.training.trees import clear_of_zero, link_of

MOST_LEAVES, MOST_TREES = 64, 1 << 16
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NONE, _NAN = 0, 2


@dataclass(frozen=True, slots=True)
class Forest:
    """A model of trees. Masks have 32 bits where no tree has more leaves, else 64.

    Attributes:
        width: columns of a row.
        columns, fills: the model's numbers are columns of a row with NaN replaced: which column, and by what (an endless number where a missing
            value goes its own way); both (c,).
        starts, trees, thresholds, masks: numeric nodes by column and then threshold, those of number `i` from `starts[i]` to `starts[i + 1]`;
            (c + 1,), and (nodes,) each. A value above the threshold clears what the mask clears.
        firsts, numbers, levels, clears: the same nodes by tree; `numbers` is the column, `levels` the threshold.
        sets, kinds, owners, losses, ends, words: nodes that ask whether a category is in a set, by tree: those of tree `t` from `sets[t]` to
            `sets[t + 1]`, with the column of a row, the tree, the mask, and the bits of the set in `words[ends[k]:ends[k + 1]]`.
        leaves: values, (trees, 32 or 64).
        link, scale: what is done with the sum of leaves, by its place in `LINKS`; the factor before a sigmoid.
    """

    width: int
    columns: Array
    fills: Array
    starts: Array
    trees: Array
    thresholds: Array
    masks: Array
    firsts: Array
    numbers: Array
    levels: Array
    clears: Array
    sets: Array
    kinds: Array
    owners: Array
    losses: Array
    ends: Array
    words: Array
    leaves: Array
    link: int
    scale: float


@dataclass(slots=True)
class _Node:
    """A node of one tree: what it asks and what it clears."""

    tree: int
    mask: int
    column: int
    kind: tuple[int, float] = (0, 0.0)
    threshold: float = 0.0
    words: Sequence[int] | None = None


def read_forest(text: str) -> Forest:
    """The trees of a model that LightGBM saved. Raises `InvalidError` with the reason when they are not to be had in this form."""
    header, blocks = _parts(text)
    link, scale = _link(header)
    if not 0 < len(blocks) < MOST_TREES:
        raise InvalidError(f"it has {len(blocks)} trees; at least one, and fewer than {MOST_TREES}, can be compiled")
    nodes: list[_Node] = []
    values: list[list[float]] = []
    width = int(header["max_feature_idx"]) + 1
    for tree, block in enumerate(blocks):
        found, leaves = _tree(tree, block)
        if any(not 0 <= node.column < width for node in found):
            raise InvalidError(f"tree {tree} asks for a column that rows do not have")
        nodes += found
        values.append(leaves)
    return _packed(width, nodes, values, link, scale)


def _parts(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The header, and a block for each tree: names and values."""
    body = text.partition("\nend of trees")[0]
    header, *trees = body.split("\nTree=")
    return _pairs(header), [_pairs(tree) for tree in trees]


def _pairs(block: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in block.splitlines())}


def _link(header: Mapping[str, str]) -> tuple[int, float]:
    """What is done with the sum of leaves."""
    if header.get("num_tree_per_iteration") != "1" or "average_output" in header or "max_feature_idx" not in header:
        raise InvalidError("only models that add up one tree after the other can be compiled, not several classes or random forests")
    link, scale = link_of(header.get("objective", ""))
    if not link:
        raise InvalidError(f"the objective {header['objective']!r} cannot be compiled")
    return LINKS.index(link), scale


def _tree(tree: int, block: Mapping[str, str]) -> tuple[list[_Node], list[float]]:
    """Nodes of a tree, and the values of its leaves from left to right."""
    values = _floats(block, "leaf_value")
    if block.get("is_linear", "0") != "0":
        raise InvalidError("trees with linear leaves cannot be compiled")
    if len(values) > MOST_LEAVES:
        raise InvalidError(f"tree {tree} has {len(values)} leaves; trees of up to {MOST_LEAVES} can be compiled")
    if len(values) == 1:
        return [], values
    left, right = _ints(block, "left_child"), _ints(block, "right_child")
    asks = list(_questions(tree, block))
    if sorted([*left, *right]) != [*range(-len(values), 0), *range(1, len(asks))] or not len(left) == len(right) == len(asks):
        raise InvalidError(f"tree {tree} is none: a leaf or a node has not one parent")
    ordered: list[float] = []

    def walk(node: int) -> None:
        if node < 0:
            ordered.append(values[~node])
            return
        first = len(ordered)
        walk(left[node])
        asks[node].mask = ((1 << (len(ordered) - first)) - 1) << first
        walk(right[node])

    walk(0)
    return asks, ordered


def _questions(tree: int, block: Mapping[str, str]) -> Iterator[_Node]:
    columns, thresholds, types = _ints(block, "split_feature"), _floats(block, "threshold"), _ints(block, "decision_type")
    ends, words = _ints(block, "cat_boundaries"), _ints(block, "cat_threshold")
    for column, threshold, kind in zip(columns, thresholds, types, strict=True):
        if kind & _CATEGORICAL:
            which = int(threshold)
            if not 0 <= which < len(ends) - 1 or not 0 <= ends[which] <= ends[which + 1] <= len(words):
                raise InvalidError(f"tree {tree} asks for a set of categories that is not there")
            yield _Node(tree, 0, column, words=words[ends[which] : ends[which + 1]])
            continue
        missing = kind >> 2 & 3
        if isnan(threshold):
            raise InvalidError(f"tree {tree} has a threshold that is no number")
        if missing not in (_NONE, _NAN):
            raise InvalidError("models in which zero means missing cannot be compiled")
        fill = 0.0 if missing == _NONE else -np.inf if kind & _DEFAULT_LEFT else np.inf
        yield _Node(tree, 0, column, (column, fill), min(clear_of_zero(threshold), LARGEST))


def _ints(block: Mapping[str, str], name: str) -> list[int]:
    return list(map(int, block.get(name, "").split()))


def _floats(block: Mapping[str, str], name: str) -> list[float]:
    return list(map(float, block.get(name, "").split()))


def _packed(width: int, nodes: Sequence[_Node], values: Sequence[Sequence[float]], link: int, scale: float) -> Forest:
    bits = 32 if max(map(len, values)) <= 32 else MOST_LEAVES
    kind: Any = np.uint32 if bits == 32 else np.uint64
    plain, sets = [n for n in nodes if n.words is None], [n for n in nodes if n.words is not None]
    kinds = sorted({n.kind for n in plain})
    place = {one: i for i, one in enumerate(kinds)}
    sorted_ = sorted(plain, key=lambda n: (place[n.kind], n.threshold))
    leaves = np.zeros((len(values), bits))
    for row, found in zip(leaves, values, strict=True):
        row[: len(found)] = found

    def starts(of: Sequence[int], many: int) -> Array:
        return np.searchsorted(np.array(of, np.int64), np.arange(many + 1)).astype(np.uint32)

    def masks(of: Sequence[_Node]) -> Array:
        return ~np.array([n.mask for n in of], kind)

    return Forest(
        width,
        np.array([column for column, _fill in kinds], np.uint32),
        np.array([fill for _column, fill in kinds], np.float64),
        starts([place[n.kind] for n in sorted_], len(kinds)),
        np.array([n.tree for n in sorted_], np.uint16),
        np.array([n.threshold for n in sorted_], np.float64),
        masks(sorted_),
        starts([n.tree for n in plain], len(values)),
        np.array([place[n.kind] for n in plain], np.uint32),
        np.array([n.threshold for n in plain], np.float64),
        masks(plain),
        starts([n.tree for n in sets], len(values)),
        np.array([n.column for n in sets], np.uint32),
        np.array([n.tree for n in sets], np.uint16),
        masks(sets),
        np.cumsum([0, *(len(n.words or ()) for n in sets)]).astype(np.uint32),
        np.array([word for n in sets for word in n.words or ()], np.uint32),
        leaves,
        link,
        scale,
    )

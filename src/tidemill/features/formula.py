"""Expressions over features: one compiled formula for arrays and for single values, with the same answer to the last bit.

Null is NaN inside, so it spreads by itself; dividing by zero gives NaN as well. What is not finite at the end is null again.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.aggregates import Aggregate, names_in, parse_formula
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError

_DIVIDE = "_divide"


class _Floats(ast.NodeTransformer):
    """Numbers become floats, and a division a call that knows zero."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.copy_location(ast.Constant(float(str(node.value))), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        return ast.copy_location(ast.Call(ast.Name(_DIVIDE, ast.Load()), [node.left, node.right], []), node)


def _divide_one(a: float, b: float) -> float:
    return a / b if b else math.nan


def _divide_many(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(a / np.where(b == 0, np.nan, b), dtype=np.float64)


class Formula:
    """A compiled expression of a view."""

    def __init__(self, view: FeatureView, aggregate: Aggregate) -> None:
        self.name = view.full_name(aggregate)
        self.reads = names_in(aggregate.expression)
        by_name = {a.name: view.full_name(a) for a in view.aggregates}
        self._columns = tuple((name, by_name[name]) for name in self.reads)
        tree = ast.fix_missing_locations(_Floats().visit(parse_formula(aggregate.expression)))
        self._code: CodeType = compile(tree, f"<{self.name}>", "eval")

    def one(self, values: Mapping[str, Any]) -> float | None:
        """The value from the view's other features, by full name."""
        try:
            given: dict[str, Any] = {name: math.nan if values[column] is None else float(values[column]) for name, column in self._columns}
        except (TypeError, ValueError):
            raise InvalidError(self._no_number(values)) from None
        found = eval(self._code, {"__builtins__": {}, _DIVIDE: _divide_one}, given)  # noqa: S307 - arithmetic only, see parse_formula
        return float(found) if math.isfinite(found) else None

    def many(self, columns: Mapping[str, npt.NDArray[np.float64]], rows: int) -> npt.NDArray[np.float64]:
        """The values of many rows from float64 arrays with NaN for null; NaN where there is none."""
        given = {name: columns[column] for name, column in self._columns}
        with np.errstate(all="ignore"):
            found = eval(self._code, {"__builtins__": {}, _DIVIDE: _divide_many}, given)  # noqa: S307
        whole = np.broadcast_to(np.asarray(found, dtype=np.float64), (rows,))
        return np.where(np.isfinite(whole), whole, np.nan)

    def _no_number(self, values: Mapping[str, Any]) -> str:
        wrong = [column for _, column in self._columns if isinstance(values[column], str)]
        return f"the expression {self.name!r} computes with {', '.join(wrong)}, which is no number; use it in an on-demand feature instead"


def formulas(view: FeatureView) -> Sequence[Formula]:
    """The expressions of a view, in order; each reads only features before it."""
    return tuple(Formula(view, a) for a in view.aggregates if a.kind == "expression")

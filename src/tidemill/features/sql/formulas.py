"""Expressions over features as SQL, with the values of `features.formula`."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tidemill.core.aggregates import Aggregate, parse_formula
from tidemill.features.sql.engines import LARGEST

_SIGNS: dict[type[ast.operator | ast.unaryop], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.USub: "-", ast.UAdd: "+"}


def formula(a: Aggregate, features: Mapping[str, str]) -> str:
    """The expression over the SQL of the features that it reads; null where it divides by zero and where it is not finite."""
    whole = _text(parse_formula(a.expression).body, features)
    return f"CASE WHEN ABS({whole}) <= {LARGEST} THEN {whole} END"


def _text(node: ast.expr, features: Mapping[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return f"CAST('{float(str(node.value))!r}' AS DOUBLE)"
    if isinstance(node, ast.Name):
        return f"CAST({features[node.id]} AS DOUBLE)"
    if isinstance(node, ast.UnaryOp):
        return f"({_SIGNS[type(node.op)]} {_text(node.operand, features)})"
    assert isinstance(node, ast.BinOp)
    left, right = _text(node.left, features), _text(node.right, features)
    if isinstance(node.op, ast.Div):
        return f"({left} / NULLIF({right}, 0))"
    return f"({left} {_SIGNS[type(node.op)]} {right})"

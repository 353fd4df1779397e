"""Expressions over features: null spreads, dividing by zero is null, and so is what is not finite."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tidemill.core.aggregates import parse_formula
from tidemill.features.sql.arithmetic import float_
from tidemill.features.sql.fields import LARGEST

_SIGN: Mapping[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


def formula(text: str, values: Mapping[str, str]) -> str:
    """An expression in SQL; `values` spells the features that it reads, by name."""
    found = _sql(parse_formula(text).body, values)
    return f"CASE WHEN ABS({found}) <= {LARGEST} THEN {found} END"


def _sql(node: ast.expr, values: Mapping[str, str]) -> str:
    match node:
        case ast.Constant(value=value):
            return float_(float(str(value)))
        case ast.Name(id=name):
            return f"CAST({values[name]} AS DOUBLE)"
        case ast.UnaryOp(op=op, operand=operand):
            return f"({'-' if isinstance(op, ast.USub) else '+'}{_sql(operand, values)})"
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return f"({_sql(left, values)} / NULLIF({_sql(right, values)}, {float_(0)}))"
        case ast.BinOp(left=left, op=op, right=right):
            return f"({_sql(left, values)} {_SIGN[type(op)]} {_sql(right, values)})"
    raise AssertionError(f"parse_formula let {ast.dump(node)} through")

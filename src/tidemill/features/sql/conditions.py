"""The conditions of features (`where=`), which are written in DuckDB's SQL, in Spark's.

Engines give many functions one name and two meanings (`date_diff` counts borders in one and whole units in the other). So only what is
known to mean the same passes; the rest is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlglot
from sqlglot import exp

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.features.fields import refused

_SAME: tuple[type[exp.Expression], ...] = (
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Tuple,
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Is, exp.In, exp.Between,
    exp.NullSafeEQ, exp.NullSafeNEQ, exp.Like, exp.ILike, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Div,
    exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Abs, exp.Lower, exp.Upper, exp.Cast, exp.DataType, exp.DataTypeParam,
    exp.Interval, exp.Var, exp.Extract, exp.Year, exp.Month, exp.Day, exp.Hour, exp.Minute,
)  # fmt: skip
_TYPES = frozenset(exp.DataType.Type[name] for name in ("DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPNTZ"))
"""Types to which both engines cast alike; to whole numbers one rounds and the other cuts."""
_PARTS = frozenset({"YEAR", "MONTH", "DAY", "HOUR", "MINUTE"})
_UNITS = frozenset({"DAY", "HOUR", "MINUTE", "SECOND"})


def checked(table: Table, where: str) -> str:
    """A condition in the compiler's dialect, without comments. Raises `InvalidError` for one that is no SQL expression."""
    try:
        return sqlglot.parse_one(where, read="duckdb", into=exp.Condition).sql(dialect="duckdb", comments=False)
    except sqlglot.errors.SqlglotError as error:
        raise refused(table, [where], error) from error


def for_spark(condition: Any) -> Any:
    """A condition as Spark has to be told it.

    Raises:
        InvalidError: it has something that Spark may understand in another way.
    """
    for node in condition.walk():
        if (word := _different(node)) is not None:
            raise InvalidError(
                f"the condition {condition.unnest().sql(dialect='duckdb')!r} has {word}, which Spark may understand in another way; "
                "write it with comparisons, arithmetic, CASE, LIKE, IN and parts of times, or use stack.offline: duckdb:memory"
            )
    return innermost_first(condition, _divided)


def innermost_first(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A tree with every node put through `change`, those inside before those around them."""
    for node in reversed(list(tree.dfs())):
        new = change(node)
        if new is not node:
            tree = new if node is tree else tree
            node.replace(new)
    return tree


def _different(node: Any) -> str | None:
    """What in a node means something else elsewhere, None if nothing does."""
    if isinstance(node, exp.Cast) and node.to.this not in _TYPES:
        return str(node.sql(dialect="duckdb"))
    if isinstance(node, exp.Extract) and node.name.upper() not in _PARTS:
        return str(node.sql(dialect="duckdb"))
    if isinstance(node, exp.Interval) and str(node.unit).upper().removesuffix("S") not in _UNITS:
        return str(node.sql(dialect="duckdb"))
    if isinstance(node, exp.Like | exp.ILike) and "\\" in node.expression.name:
        return "a backslash in a pattern"
    return None if isinstance(node, _SAME) else str(node.sql(dialect="duckdb"))


def _divided(node: exp.Expression) -> exp.Expression:
    """Division by zero gives what floats give; Spark would end with an error."""
    if not isinstance(node, exp.Div):
        return node
    double = exp.DataType.build("DOUBLE")
    a, b = (exp.Cast(this=x.copy(), to=double.copy()) for x in (node.this, node.expression))
    special = [exp.Cast(this=exp.Literal.string(name), to=double.copy()) for name in ("Infinity", "-Infinity", "NaN")]
    zero = exp.Literal.number(0)
    at_zero = exp.Case(
        ifs=[
            exp.If(this=exp.IsNan(this=a.copy()), true=special[2].copy()),
            exp.If(this=exp.GT(this=a.copy(), expression=zero.copy()), true=special[0]),
            exp.If(this=exp.LT(this=a.copy(), expression=zero.copy()), true=special[1]),
            exp.If(this=exp.Not(this=exp.Is(this=a.copy(), expression=exp.Null())), true=special[2]),
        ]
    )
    plain = exp.Div(this=a, expression=b.copy())
    return exp.Paren(this=exp.Case(ifs=[exp.If(this=exp.EQ(this=b, expression=zero), true=at_zero)], default=plain))

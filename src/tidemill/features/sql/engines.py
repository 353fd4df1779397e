"""What the engines spell differently.

The compiler writes DuckDB's dialect with a few functions of its own (`TM_…`); sqlglot turns a query into the dialect of an
engine, and this module replaces those functions by what the engine has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import sqlglot
from sqlglot import exp

from tidemill.features.sql.conditions import for_spark, innermost_first

Engine = Literal["duckdb", "spark"]
ENGINES: tuple[Engine, ...] = ("duckdb", "spark")
LARGEST = "1.7976931348623157E+308"
"""The greatest finite float64: NaN and infinity are beyond it in DuckDB and in Spark."""

_PLAIN = (
    "CAST('1970-01-01' AS TIMESTAMP) + MAKE_DT_INTERVAL(0, 0, 0, CAST(CAST(UNIX_MICROS(x) AS DECIMAL(18, 0)) * 0.000001 AS DECIMAL(18, 6)))"
)
"""A time as plain UTC in Spark, whatever the zone of the session."""


def text(value: str) -> str:
    """Spell a string as a literal of the compiler's dialect."""
    return "'" + value.replace("'", "''") + "'"


def render(query: str, engine: Engine) -> str:
    """A query of the compiler's dialect in that of `engine`, indented."""
    functions = _FUNCTIONS[engine]
    tree = innermost_first(sqlglot.parse_one(query, read="duckdb"), lambda node: _replaced(node, functions))
    return str(tree.sql(dialect=engine, pretty=True))


def hashable(column: pa.Field) -> bool:
    """Whether Spark can hash a column; it cannot hash maps."""
    return not pa.types.is_map(column.type)


@dataclass(frozen=True, slots=True)
class _Functions:
    """How an engine spells each function of the compiler's own."""

    by_name: Mapping[str, Callable[[list[exp.Expression]], exp.Expression]]


def _replaced(node: exp.Expression, functions: _Functions) -> exp.Expression:
    made = functions.by_name.get(str(node.this).upper()) if isinstance(node, exp.Anonymous) else None
    return made(node.expressions) if made else node


def _call(name: str, *args: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=name, expressions=list(args))


def _written(sql: str, *args: exp.Expression) -> exp.Expression:
    """A call spelled as a template of the compiler's dialect, `x` standing for its only argument."""
    tree = sqlglot.parse_one(sql, read="duckdb")
    return tree.transform(lambda n: args[0].copy() if isinstance(n, exp.Column) and n.name == "x" else n)


def _spark_hash(columns: list[exp.Expression]) -> exp.Expression:
    """Spark's hash passes over nulls, so (null, x) and (x, null) would be one row without the flags."""
    return _call("XXHASH64", *(part for c in columns for part in (exp.Is(this=c.copy(), expression=exp.Null()), c)))


_FUNCTIONS: dict[Engine, _Functions] = {
    "duckdb": _Functions(
        {
            "TM_MICROS": lambda a: _call("EPOCH_US", *a),
            "TM_PLAIN": lambda a: _call("MAKE_TIMESTAMP", _call("EPOCH_US", *a)),
            "TM_SAME": lambda a: _call("HASH", *a),
            "TM_FOLD": lambda a: _call("LIST_REDUCE", a[0], a[2], a[1]),
            "TM_WHERE": lambda a: a[0],
            "TM_EVEN": lambda a: _call("ROUND_EVEN", a[0], exp.Literal.number(0)),
            "TM_HEX": lambda a: _written("CAST('0x' || x AS BIGINT)", *a),
        }
    ),
    "spark": _Functions(
        {
            "TM_MICROS": lambda a: _call("UNIX_MICROS", *a),
            "TM_PLAIN": lambda a: _written(_PLAIN, *a),
            "TM_SAME": _spark_hash,
            "TM_FOLD": lambda a: _call("AGGREGATE", *a),
            "TM_WHERE": lambda a: for_spark(a[0]),
            "TM_EVEN": lambda a: _call("RINT", *a),
            "TM_HEX": lambda a: _written("CAST(CONV(x, 16, 10) AS BIGINT)", *a),
            "ISFINITE": lambda a: _written(f"ABS(x) <= {LARGEST}", *a),
        }
    ),
}

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

Engine = Literal["duckdb", "spark"]
ENGINES: tuple[Engine, ...] = ("duckdb", "spark")


def quote(name: str) -> str:
    """Spell a name as an identifier of the compiler's dialect."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Spell a string as a literal of the compiler's dialect."""
    return "'" + value.replace("'", "''") + "'"


def render(query: str, engine: Engine) -> str:
    """A query of the compiler's dialect in that of `engine`, indented."""
    tree = sqlglot.parse_one(query, read="duckdb")
    return tree.transform(_replaced, _FUNCTIONS[engine]).sql(dialect=engine, pretty=True)


def hashable(column: pa.Field) -> bool:
    """Whether Spark can hash a column; it cannot hash maps."""
    return not pa.types.is_map(column.type)


@dataclass(frozen=True, slots=True)
class _Functions:
    """How an engine spells each function of the compiler's own."""

    by_name: Mapping[str, Callable[[list[exp.Expression]], exp.Expression]]


def _replaced(node: exp.Expression, functions: _Functions) -> exp.Expression:
    if isinstance(node, exp.Anonymous) and str(node.this).upper() in functions.by_name:
        return functions.by_name[str(node.this).upper()](node.expressions)
    return node


def _call(name: str, *args: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=name, expressions=list(args))


def _spark_hash(columns: list[exp.Expression]) -> exp.Expression:
    """Spark's hash passes over nulls, so (null, x) and (x, null) would be one row without the flags."""
    return _call("XXHASH64", *(part for c in columns for part in (exp.Is(this=c.copy(), expression=exp.Null()), c)))


_FUNCTIONS: dict[Engine, _Functions] = {
    "duckdb": _Functions(
        {
            "TM_MICROS": lambda a: _call("EPOCH_US", *a),
            "TM_SAME": lambda a: _call("HASH", *a),
            "TM_FOLD": lambda a: _call("LIST_REDUCE", a[0], a[2], a[1]),
        }
    ),
    "spark": _Functions(
        {
            "TM_MICROS": lambda a: _call("UNIX_MICROS", *a),
            "TM_SAME": _spark_hash,
            "TM_FOLD": lambda a: _call("AGGREGATE", *a),
        }
    ),
}

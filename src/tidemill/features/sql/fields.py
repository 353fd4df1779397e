"""What a row gives to features: a column, a condition and a form, as in the embedded store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.types as types
import sqlglot
from sqlglot import exp

from tidemill.core.aggregates import NUMERIC, Aggregate
from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.features.sql.engines import Engine, quote

LARGEST = "1.7976931348623157E+308"
"""The greatest finite float64: NaN and infinity are beyond it in DuckDB and in Spark."""
Form = Literal["number", "value", "present", "newest"]
"""A finite float; a value of any type; 1 where there is a value; a value of which null is one (`latest`)."""


@dataclass(frozen=True, slots=True, order=True)
class Field:
    """Null where a row gives nothing, because the value is none or the condition does not hold. Features may share one."""

    form: Form
    column: str
    where: str


def field_of(a: Aggregate) -> Field | None:
    """The field of a feature; None for a count of all rows and for an expression."""
    if a.kind == "expression" or (a.kind == "count" and not a.column and not a.where):
        return None
    if a.kind == "latest":
        return Field("newest", str(a.column), a.where)
    if a.kind == "count":
        return Field("present", a.column or "", a.where)
    return Field("number" if a.kind in NUMERIC else "value", str(a.column), a.where)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the columns of a table's rows are called in a query. `masks`: the boolean column of each condition."""

    table: Table
    schema: pa.Schema
    keys: tuple[str, ...]
    fields: Mapping[Field, str]
    masks: Mapping[str, str]

    def of(self, a: Aggregate) -> str:
        """The column that a feature looks at."""
        field = field_of(a)
        assert field is not None
        return self.fields[field]


def shape(table: Table, views: Sequence[FeatureView], schema: pa.Schema) -> Shape:
    """The columns that some views of one table need."""
    found = sorted({f for v in views for a in v.aggregates if (f := field_of(a)) is not None})
    masks = {where: f"_w{i}" for i, where in enumerate(sorted({f.where for f in found if f.where}))}
    names = {f: quote(f"f{i}_{f.column}") for i, f in enumerate(found)}
    return Shape(table, schema, tuple(sorted({k for v in views for k in v.keys})), names, masks)


def expression(field: Field, column: str, schema: pa.Schema, masks: Mapping[str, str]) -> str:
    """The SQL of a field, whose column is spelled `column`."""
    holds = [masks[field.where]] if field.where else []
    floating = bool(field.column) and types.is_floating(schema.field(field.column).type)
    if field.form == "newest":
        return f"CASE WHEN ISNAN({column}) THEN NULL ELSE {column} END" if floating else column
    if field.form == "number":
        return f"CASE WHEN {' AND '.join([*holds, f'ABS(CAST({column} AS DOUBLE)) <= {LARGEST}'])} THEN CAST({column} AS DOUBLE) END"
    if floating:
        holds.append(f"ABS({column}) <= {LARGEST}")
    if field.form == "value":
        return f"CASE WHEN {' AND '.join(holds)} THEN {column} END" if holds else column
    return f"CASE WHEN {' AND '.join([*holds, *([f'{column} IS NOT NULL'] if field.column else [])])} THEN 1 END"


_SHARED: tuple[type[exp.Expression], ...] = (
    exp.Abs, exp.Add, exp.And, exp.Between, exp.Boolean, exp.Case, exp.Cast, exp.Coalesce, exp.Column, exp.DataType, exp.EQ, exp.GT, exp.GTE,
    exp.Identifier, exp.If, exp.In, exp.Interval, exp.Is, exp.LT, exp.LTE, exp.Length, exp.Like, exp.Literal, exp.Lower, exp.Mul, exp.NEQ,
    exp.Neg, exp.Not, exp.Null, exp.Or, exp.Paren, exp.Sub, exp.Upper, exp.Var,
)  # fmt: skip
"""What DuckDB and Spark understand alike."""


def condition(where: str, table: Table, engine: Engine) -> str:
    """A `where`, checked, in the compiler's dialect.

    Raises:
        InvalidError: it is no SQL condition, or (for Spark) it uses what Spark may answer otherwise.
    """
    try:
        tree = sqlglot.parse_one(where, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise InvalidError(f"the condition {where!r} over table {table.name!r} is not SQL: {str(error).splitlines()[0]}") from error
    if engine == "spark":
        for node in tree.walk():
            escaped = isinstance(node, exp.Like) and "\\" in node.expression.sql()
            if not isinstance(node, _SHARED) or escaped:
                raise InvalidError(
                    f"the condition {where!r} over table {table.name!r} uses {node.sql(dialect='duckdb')}, which Spark may answer otherwise than "
                    "DuckDB; use comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, + - *, CASE, or stack.offline: duckdb:memory"
                )
    return tree.sql(dialect="duckdb")

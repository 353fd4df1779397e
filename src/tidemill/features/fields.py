"""Columns of values that features look at, whatever engine reads them.

A field is a column (or the row itself), a condition and a form. Features that look at the same values share a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from tidemill.core.aggregates import NUMERIC, Aggregate
from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError

Form = Literal["number", "value", "present", "newest"]
"""A finite float; a value of any type; 1.0 where there is a value; a value of which null is one (`latest`)."""


@dataclass(frozen=True, slots=True, order=True)
class Field:
    """What a row gives to some features; null where it gives nothing, because the value is none or the condition does not hold."""

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


def fields_of(views: Iterable[FeatureView]) -> list[Field]:
    """All fields of some views, each once, in a stable order."""
    return sorted({f for v in views for a in v.aggregates if (f := field_of(a)) is not None})


def type_of(a: Aggregate, schema: pa.Schema) -> pa.DataType:
    """The type of a feature's column: whole numbers for counts, the column's own where a value is taken as it is, else float64."""
    if a.kind in ("count", "distinct"):
        return pa.int64()
    return schema.field(str(a.column)).type if a.kind in ("first", "last", "latest", "top") else pa.float64()


def conditions(fields: Iterable[Field]) -> list[str]:
    """The conditions of fields, each once."""
    return sorted({f.where for f in fields if f.where})


def quote(name: str) -> str:
    """Spell a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def expression(field: Field, schema: pa.Schema, masks: Mapping[str, str]) -> str:
    """The SQL of a field; `masks` spells the boolean column of each condition."""
    if field.form == "present" and not field.column:
        return f"CASE WHEN {masks[field.where]} THEN 1.0::DOUBLE END"
    name = quote(field.column)
    floating = pa.types.is_floating(schema.field(field.column).type)
    if field.form == "newest":
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END" if floating else name
    holds = [masks[field.where]] if field.where else []
    if field.form == "number":
        holds.append(f"isfinite({name}::DOUBLE)")
        return f"CASE WHEN {' AND '.join(holds)} THEN {name}::DOUBLE END"
    if floating:
        holds.append(f"isfinite({name})")
    if field.form == "present":
        return f"CASE WHEN {' AND '.join([*holds, f'{name} IS NOT NULL'])} THEN 1.0::DOUBLE END"
    return f"CASE WHEN {' AND '.join(holds)} THEN {name} END" if holds else name


def refused(table: Table, wanted: Sequence[str], error: Exception) -> InvalidError:
    """The error for conditions that an engine does not understand."""
    reason = str(error).split("\n", 1)[0]
    return InvalidError(f"a condition over table {table.name!r} cannot be evaluated ({'; '.join(wanted)}): {reason}")

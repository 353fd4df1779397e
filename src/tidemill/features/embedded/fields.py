"""Columns of values that features look at, the same for rows in files and for rows on their way.

A field is a column (or the row itself), a condition and a form. Features that look at the same values share a field.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
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


def plain_times(schema: pa.Schema) -> str:
    """`* REPLACE (…)` that makes times with a zone plain UTC, which conditions compare and subtract without an extension of DuckDB."""
    times = [f.name for f in schema if pa.types.is_timestamp(f.type)]
    made = ", ".join(f"make_timestamp(epoch_us({quote(n)})) AS {quote(n)}" for n in times)
    return f"* REPLACE ({made})" if made else "*"


_LOCAL = threading.local()


def masks(table: Table, wanted: Sequence[str], rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """For rows that are not in files: which of them each condition holds for. Raises `InvalidError` naming the conditions."""
    if not wanted:
        return {}
    if not hasattr(_LOCAL, "db"):
        _LOCAL.db = duckdb.connect(config={"threads": 1})
    picked = ", ".join(f"coalesce(({where})::BOOLEAN, false) AS w{i}" for i, where in enumerate(wanted))
    _LOCAL.db.register("given", rows)
    try:
        found = _LOCAL.db.sql(f"SELECT {picked} FROM (SELECT {plain_times(rows.schema)} FROM given)").to_arrow_table()
    except duckdb.Error as error:
        raise refused(table, wanted, error) from error
    finally:
        _LOCAL.db.unregister("given")
    return {where: found[f"w{i}"] for i, where in enumerate(wanted)}


def refused(table: Table, wanted: Sequence[str], error: Exception) -> InvalidError:
    """The error for conditions that an engine does not understand."""
    reason = str(error).split("\n", 1)[0]
    return InvalidError(f"a condition over table {table.name!r} cannot be evaluated ({'; '.join(wanted)}): {reason}")

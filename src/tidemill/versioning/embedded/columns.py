"""Which Arrow columns a table can have, and how rows are brought into a table's columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as types

from tidemill.core.errors import InvalidError

_STORED: dict[Any, Any] = {
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}


def storable(schema: pa.Schema) -> pa.Schema:
    """The types that Iceberg keeps a schema's columns in; all nullable. Raises `InvalidError` for types that it cannot keep."""
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise InvalidError(f"the columns {', '.join(twice)} are there twice; give each column a name of its own")
    return pa.schema([pa.field(field.name, _stored(field.name, field.type), nullable=True) for field in schema])


def _stored(name: str, kind: Any) -> Any:
    if types.is_dictionary(kind):
        return _stored(name, kind.value_type)
    if types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_duration(kind) or types.is_uint64(kind):
        raise InvalidError(f"the column {name!r} is {kind}, which tables cannot keep; store it as int64")
    return _STORED.get(kind, kind)


def conform(rows: pa.Table, schema: pa.Schema, table: str) -> pa.Table:
    """Rows with exactly the columns of `schema`, in its order and types; absent ones are null.

    Raises:
        InvalidError: columns that the table does not have, or values that do not fit a column's type without loss.
    """
    check(rows.schema, schema, table)
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(_cast(rows.column(field.name), field, table))
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    return pa.table(columns, schema=schema)


def check(given: pa.Schema, schema: pa.Schema, table: str) -> None:
    """Whether columns are of a table. Raises `InvalidError` naming those that are not."""
    if unknown := sorted(set(given.names) - set(schema.names)):
        raise InvalidError(
            f"the table {table!r} has no column {', '.join(map(repr, unknown))}; it has {', '.join(schema.names)}. Rename the column, "
            "or add it to the table with create()"
        )
    storable(given)


def _cast(column: pa.ChunkedArray, field: pa.Field, table: str) -> pa.ChunkedArray:
    if column.type.equals(field.type):
        return column
    if _family(column.type) not in (_family(field.type), "null"):
        raise InvalidError(f"the column {field.name!r} of {table!r} is {field.type}, but these rows have {column.type}; convert them first")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidError(
            f"values of the column {field.name!r} do not fit the type {field.type} of {table!r} without loss: {error}"
        ) from error


def _family(kind: Any) -> str:
    """Types between which values may be converted when nothing is lost."""
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_timestamp(kind):
        return "zoned time" if kind.tz else "local time"
    return str(_STORED.get(kind, kind)) if not types.is_null(kind) else "null"

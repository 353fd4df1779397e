"""Making rows fit a table: types that every table format has, times in UTC, columns in the table's order."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant
from tidemill.validation.ports import Anomaly

TIME = pa.timestamp("us", tz="UTC")
_SMALL = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
_AS: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (pt.is_null, pa.string()),
    (pt.is_large_string, pa.string()),
    (pt.is_large_binary, pa.binary()),
    (pt.is_unsigned_integer, pa.int64()),
    (pt.is_float16, pa.float32()),
    (pt.is_timestamp, TIME),
    (pt.is_date64, pa.date32()),
    (pt.is_time, pa.time64("us")),
    (pt.is_decimal256, pa.float64()),
)


def storable(rows: pa.Table, table: Table) -> pa.Table:
    """`rows` with types that a table can hold; the table's two clocks become instants.

    Instants are in UTC to the microsecond, finer parts cut off. A time without a zone is taken as UTC, as everywhere in Tidemill.
    Raises `InvalidError` for a clock column that holds no times.
    """
    clocks = (table.event_time, table.known_time)
    arrays = []
    for name, values in zip(rows.column_names, rows.columns, strict=True):
        plain = _plain(values)
        arrays.append(_instants(name, plain) if name in clocks and plain.type != TIME else plain)
    return pa.table(arrays, names=rows.column_names)


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pt.is_duration(values.type):
        return values.cast(pa.duration("us"), safe=False).cast(pa.int64())
    wanted = next((new for test, new in _AS if test(values.type)), values.type)
    return values if wanted == values.type else values.cast(wanted, safe=not pt.is_temporal(wanted))


def _instants(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_date(values.type) or values.null_count == len(values):
        return values.cast(TIME)
    if not pt.is_string(values.type):
        raise InvalidError(f"column {name!r} should hold times but is of type {values.type}; write ISO 8601, such as 2013-03-01T06:30:00Z")
    for zone in ("UTC", None):
        try:
            return values.cast(pa.timestamp("us", tz=zone)).cast(TIME)
        except pa.ArrowInvalid:
            continue
    return pa.chunked_array([pa.array([None if v is None else parse_instant(v) for v in values.to_pylist()], pa.int64()).cast(TIME)])


def conform(rows: pa.Table, schema: pa.Schema) -> tuple[pa.Table, tuple[Anomaly, ...]]:
    """Cast `rows` to the types of `schema` where no value changes, add the columns they lack as nulls, order them as it does.

    Columns that the schema lacks stay, behind. A column that does not fit stays as it is and is an anomaly.
    """
    columns, misfits = {}, []
    for field in small(schema):
        if field.name not in rows.column_names:
            columns[field.name] = pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
            continue
        values = rows[field.name]
        try:
            columns[field.name] = values if values.type == field.type else _cast(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            columns[field.name] = values
            misfits.append(Anomaly(field.name, "type", f"{field.type}, as in the table", f"{values.type}: {str(exc)[:120]}", rows.num_rows))
    columns |= {name: rows[name] for name in rows.column_names if name not in columns}
    return pa.table(columns), tuple(misfits)


def _cast(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Cast without loss; numbers to text (an id that a CSV file has as digits) and text to anything only where it parses."""
    if pt.is_floating(values.type) and pt.is_string(wanted):
        raise pa.ArrowInvalid("numbers with a fraction are not texts")
    if values.null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values), wanted)])
    return values.cast(wanted)


def small(schema: pa.Schema) -> pa.Schema:
    """The schema with plain strings and binaries where a store speaks of large ones."""
    return pa.schema([pa.field(field.name, _SMALL.get(field.type, field.type)) for field in schema])


def structure(table: Table, rows: pa.Table) -> tuple[Anomaly, ...]:
    """What any batch must have, schema or not: rows' keys and both clocks, as instants, without nulls."""
    found = []
    for name in dict.fromkeys((table.event_time, table.known_time, *table.keys)):
        clock = name in (table.event_time, table.known_time)
        kind = "instants" if clock else "values"
        if name not in rows.column_names:
            found.append(Anomaly(name, "missing_column", f"a column of {kind}", "no such column", rows.num_rows))
        elif clock and rows[name].type != TIME:
            found.append(Anomaly(name, "type", str(TIME), str(rows[name].type), rows.num_rows))
        elif nulls := pc.sum(pc.is_null(rows[name])).as_py():
            found.append(Anomaly(name, "null_fraction", "no nulls", f"{nulls} of {rows.num_rows}", nulls))
    return tuple(found)

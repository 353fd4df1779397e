"""Which of the four kinds of column an Arrow type is, and times as plain numbers."""

import pyarrow as pa
import pyarrow.types as pt

from tidemill.validation.ports import ColumnKind


def kind_of(dtype: pa.DataType) -> ColumnKind:
    """Numbers, booleans and times (instants, dates, durations); everything else, nested values too, is text."""
    if pt.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    if pt.is_boolean(dtype):
        return "boolean"
    if pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_decimal(dtype):
        return "number"
    return "time" if pt.is_temporal(dtype) and not pt.is_interval(dtype) else "text"


def as_us(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as whole microseconds: instants and dates since the epoch, times of day since midnight, durations by length."""
    kind = values.type
    if pt.is_date(kind):
        values = values.cast(pa.timestamp("us"))
    elif pt.is_time(kind):
        values = values.cast(pa.time64("us"), safe=False)
    elif pt.is_timestamp(kind):
        values = values.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    elif pt.is_duration(kind):
        values = values.cast(pa.duration("us"), safe=False)
    return values.cast(pa.int64())

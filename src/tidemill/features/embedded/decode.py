"""From Arrow rows to what the processor takes: times, identity and, for each view, key and values."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.tiles import FOREVER, NEVER, ViewPlan
from tidemill.features.ports import MAX_VALUE_BYTES

Part = tuple[Any, Sequence[Any]] | None
"""A row's key and values in one view; None where a part of the key is null."""
Taken = tuple[Any, int, int, int, tuple[Part, ...]]
"""Identity over corrections, event time, known time, digest of the whole row, parts by view."""


def check(table: Table, plans: Sequence[ViewPlan], source: pa.Table) -> None:
    """Raise `InvalidError` for columns that are missing."""
    wanted = [table.event_time, table.known_time, *table.keys, *(k for p in plans for k in p.view.keys)]
    wanted += [c for p in plans for c, _ in p.fields]
    if missing := sorted(set(wanted) - set(source.column_names)):
        raise InvalidError(f"rows of table {table.name!r} lack {', '.join(missing)}; they have {', '.join(source.column_names)}")
    for name in dict.fromkeys(wanted):
        _check_size(table, source, name)


def _check_size(table: Table, source: pa.Table, name: str) -> None:
    """Raise `InvalidError` for a text or binary value of more than `MAX_VALUE_BYTES`."""
    kind = source.schema.field(name).type
    if not (pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind)):
        return
    if source[name].nbytes <= MAX_VALUE_BYTES:
        return
    sizes = pc.binary_length(source[name])
    if (largest := pc.max(sizes).as_py() or 0) > MAX_VALUE_BYTES:
        row = pc.index(sizes, largest).as_py()
        raise InvalidError(
            f"row {row} of table {table.name!r} has {largest} bytes in {name!r}; a value has {MAX_VALUE_BYTES} at most; nothing of this piece was taken"
        )


def rows(table: Table, plans: Sequence[ViewPlan], source: pa.Table) -> Iterator[Taken]:
    """Decode rows of a table; those that were never known are left out, those that never happen are at `FOREVER`."""
    event, known = _micros(source, table.event_time).to_pylist(), _micros(source, table.known_time).to_pylist()
    raw = {name: _python(source[name]) for name in source.column_names}
    digests = _digests(raw)
    identity = _keys([raw[k] for k in table.keys]) if table.keys else [None] * source.num_rows
    parts = [_parts(plan, raw, source) for plan in plans]
    for i, (happened, learned, digest, key) in enumerate(zip(event, known, digests, identity, strict=True)):
        if learned is not None:
            moment = FOREVER if happened is None else happened
            yield (moment, learned, digest) if key is None else key, moment, learned, digest, tuple(p[i] for p in parts)


def recent(table: Table, source: pa.Table, since: int, remembered: Container[Any]) -> pa.Table:
    """Leave out rows that can count nowhere: neither they nor another row of their identity happened or became known since then."""
    event, known = (np.array(_micros(source, c).fill_null(NEVER)) for c in (table.event_time, table.known_time))
    keep = np.maximum(event, known) >= since
    if keep.all():
        return source
    if table.keys:
        identity = _keys([_python(source[k]) for k in table.keys])
        alive = {key for key, kept in zip(identity, keep, strict=True) if kept}
        keep = np.array([key is not None and (key in alive or key in remembered) for key in identity]) | keep
    return source.filter(pa.array(keep))


def _parts(plan: ViewPlan, raw: dict[str, list[Any]], source: pa.Table) -> list[Part]:
    keys = _keys([_shown(source[k], raw[k]) for k in plan.view.keys])
    columns = [_measures(source[c]) if number else [_value(v) for v in _shown(source[c], raw[c])] for c, number in plan.fields]
    values: Sequence[Any] = list(zip(*columns, strict=True)) if columns else [()] * len(keys)
    return [None if key is None else (key, value) for key, value in zip(keys, values, strict=True)]


def _keys(columns: list[list[Any]]) -> list[Any]:
    """One value, or a tuple of several; None where any is null."""
    if len(columns) == 1:
        return columns[0]
    return [None if any(v is None for v in key) else key for key in zip(*columns, strict=True)]


def _micros(source: pa.Table, name: str) -> pa.ChunkedArray:
    kind = source.schema.field(name).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidError(f"column {name!r} is {kind}; it must be a timestamp with a time zone, for example timestamp[us, tz=UTC]")
    return pc.cast(source[name], pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())


def _python(column: pa.ChunkedArray) -> list[Any]:
    """Values to tell rows apart by: times are integers, which is much faster, and -0.0 is 0.0."""
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    elif pa.types.is_floating(column.type):
        column = pc.add(column, pa.scalar(0.0, column.type))
    values: list[Any] = column.to_pylist()
    return values


def _shown(column: pa.ChunkedArray, values: list[Any]) -> list[Any]:
    """Values as features and requests have them."""
    if pa.types.is_timestamp(column.type):
        values = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False).to_pylist()
    return values


def _measures(column: pa.ChunkedArray) -> list[float | None]:
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise InvalidError(f"a column of type {kind} cannot be aggregated (use latest())")
    values = column.cast(pa.float64(), safe=False).to_pylist()
    return [v if v is not None and math.isfinite(v) else None for v in values]


def _value(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _digests(raw: dict[str, list[Any]]) -> list[int]:
    """64 bits of each row's names and non-null values, so that a column added later changes nothing."""
    encode, names = msgspec.msgpack.Encoder().encode, sorted(raw)
    found = []
    for row in zip(*(raw[n] for n in names), strict=True):
        body = encode([(n, v) for n, v in zip(names, row, strict=True) if v is not None])
        found.append(int.from_bytes(blake2b(body, digest_size=8).digest(), "big", signed=True))
    return found

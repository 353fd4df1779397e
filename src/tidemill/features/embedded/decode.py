"""From Arrow rows to what the processor takes: times, identity, digest, and the columns that the views read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.features.embedded.fields import masks
from tidemill.features.embedded.hashing import UInt64, combined, digests, mix, seed
from tidemill.features.embedded.source import Float64, Int64
from tidemill.features.embedded.tiles import FOREVER, ViewPlan
from tidemill.features.fields import Field, conditions
from tidemill.features.ports import MAX_VALUE_BYTES


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded rows; all arrays of one length. `identity` is the hash of the table's key; of the whole row where there is none.

    `columns` has what the views read: `v_NAME` as features and requests have it, `m_NAME` as a number (NaN: no value).
    """

    event: Int64
    known: Int64
    identity: UInt64
    digest: UInt64
    columns: pa.Table
    source: pa.Table
    place: Int64
    """Where each row is in `source`, the rows as they came."""

    def __len__(self) -> int:
        return len(self.event)

    def take(self, rows: Int64) -> Batch:
        """Some of the rows, in the given order."""
        if len(rows) == len(self):
            return self
        event, known, identity, digest = self.event[rows], self.known[rows], self.identity[rows], self.digest[rows]
        return Batch(event, known, identity, digest, self.columns.take(pa.array(rows)), self.source, self.place[rows])


def check(table: Table, plans: Sequence[ViewPlan], source: pa.Table) -> None:
    """Raise `InvalidError` for columns that are missing or cannot be used as the views use them."""
    wanted = [table.event_time, table.known_time, *table.keys, *(k for p in plans for k in p.view.keys)]
    wanted += [f.column for p in plans for f in p.fields if f.column]
    if missing := sorted(set(wanted) - set(source.column_names)):
        raise InvalidError(f"rows of table {table.name!r} lack {', '.join(missing)}; they have {', '.join(source.column_names)}")
    for name in (table.event_time, table.known_time):
        kind = source.schema.field(name).type
        if not pt.is_timestamp(kind) or kind.tz is None:
            raise InvalidError(
                f"column {name!r} of table {table.name!r} is {kind}; it must be a timestamp with a time zone, for example timestamp[us, tz=UTC]"
            )
    for name in dict.fromkeys(wanted):
        _check_size(table, source, name)


def _check_size(table: Table, source: pa.Table, name: str) -> None:
    """Raise `InvalidError` for a text or binary value of more than `MAX_VALUE_BYTES`."""
    kind = source.schema.field(name).type
    if not (pt.is_large_string(kind) or pt.is_large_binary(kind) or pt.is_string(kind) or pt.is_binary(kind)):
        return
    if source[name].nbytes <= MAX_VALUE_BYTES:
        return
    sizes = pc.binary_length(source[name])
    if (largest := pc.max(sizes).as_py() or 0) > MAX_VALUE_BYTES:
        row = pc.index(sizes, largest).as_py()
        raise InvalidError(
            f"row {row} of table {table.name!r} has {largest} bytes in {name!r}; a value has {MAX_VALUE_BYTES} at most; nothing of this piece was taken"
        )


def decode(table: Table, plans: Sequence[ViewPlan], source: pa.Table) -> Batch:
    """Decode rows of a table; those that were never known are left out, those that never happen are at `FOREVER`."""
    if source[table.known_time].null_count:
        source = source.filter(pc.is_valid(source[table.known_time]))
    event, known = _micros(source[table.event_time]), _micros(source[table.known_time])
    digest = digests(source)
    whole = mix(mix(mix(digest ^ seed("row")) ^ event.view(np.uint64)) ^ known.view(np.uint64))
    if table.keys:
        identity, missing = combined([source[k] for k in table.keys], source.num_rows)
        identity = np.where(missing, whole, identity)
    else:
        identity = whole
    return Batch(event, known, identity, digest, columns(plans, source), source, np.arange(source.num_rows))


def columns(plans: Sequence[ViewPlan], source: pa.Table) -> pa.Table:
    """The columns that the views read, in the types in which they are remembered."""
    made: dict[str, pa.ChunkedArray] = {}
    for plan in plans:
        for key in plan.view.keys:
            made[f"v_{key}"] = _shown(source[key])
        for field in plan.fields:
            if field.form == "number":
                made[f"m_{field.column}"] = _measure(field.column, source[field.column])
            elif field.column:
                made[f"v_{field.column}"] = _shown(source[field.column])
    wanted = conditions(f for p in plans for f in p.fields)
    made |= {f"w|{where}": mask for where, mask in masks(plans[0].view.table, wanted, source).items()}
    return pa.table(made)


def keys(plan: ViewPlan, rows: pa.Table) -> tuple[Int64, list[Any]]:
    """A code for each row and the key that it stands for (one value, or a tuple of several); -1 where a part of it is null."""
    code, found = coded(plan, rows)
    return code, found.to_pylist() if isinstance(found, pa.Array) else found


def coded(plan: ViewPlan, rows: pa.Table) -> tuple[Int64, pa.Array | list[Any]]:
    """The same, keys of one part as an array."""
    if len(plan.keys) == 1:
        column = rows[f"v_{plan.keys[0]}"].combine_chunks().dictionary_encode()
        code = np.asarray(pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
        found = column.dictionary
        absent = pc.is_null(found, nan_is_null=True)
        if pc.any(absent).as_py():
            code[np.isin(code, np.flatnonzero(absent))] = -1
        return code, found
    parts = [rows[f"v_{k}"] for k in plan.keys]
    words, missing = combined(parts, rows.num_rows)
    _, first, code = np.unique(words, return_index=True, return_inverse=True)
    named = rows.select([f"v_{k}" for k in plan.keys]).take(pa.array(first))
    code = np.where(missing, -1, code).astype(np.int64)
    return code, list(zip(*(c.to_pylist() for c in named.columns), strict=True))


def key_words(plan: ViewPlan, rows: pa.Table) -> UInt64:
    """Hash of each row's key."""
    return combined([rows[f"v_{k}"] for k in plan.keys], rows.num_rows)[0]


def word_of_key(plan: ViewPlan, key: Any, schema: pa.Schema) -> UInt64 | None:
    """Hash of one key as a request has it; None when no row can have it."""
    parts = key if isinstance(key, tuple) else (key,)
    try:
        arrays = [pa.array([part], schema.field(f"v_{name}").type) for name, part in zip(plan.keys, parts, strict=True)]
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return combined(arrays, 1)[0]


def values(plan: ViewPlan, rows: pa.Table) -> list[tuple[Any, ...]]:
    """The fields of a view, row by row."""
    if not plan.fields:
        return [()] * rows.num_rows
    return list(zip(*(field_values(rows, field) for field in plan.fields), strict=True))


def field_values(rows: pa.Table, field: Field) -> list[Any]:
    """One field of each row, None where it has no value. A value of `latest` with a condition is a list of one, since it may be null."""
    if field.form in ("number", "present"):
        return [None if v != v else v for v in measure(rows, field).tolist()]
    found = shown(rows, field)
    if not field.where:
        return found.to_pylist()  # type: ignore[no-any-return]
    held = zip(found.to_pylist(), rows[f"w|{field.where}"].to_pylist(), strict=True)
    if field.form == "newest":
        return [[value] if holds else None for value, holds in held]
    return [value if holds else None for value, holds in held]


def shown(rows: pa.Table, field: Field) -> pa.ChunkedArray:
    """A field that is a value as features have it, whatever its condition; null where there is none."""
    found = rows[f"v_{field.column}"]
    if not pt.is_floating(found.type):
        return found
    right = pc.is_finite(found) if field.form == "value" else pc.invert(pc.is_nan(found))
    return pc.if_else(right, found, pa.scalar(None, found.type))


def measure(rows: pa.Table, field: Field) -> Float64:
    """A field that is a number, or 1 where there is a value; NaN elsewhere."""
    if field.form == "number":
        found = np.asarray(rows[f"m_{field.column}"].to_numpy(), dtype=np.float64)
    else:
        found = np.ones(rows.num_rows)
        if field.column:
            column = rows[f"v_{field.column}"]
            there = pc.fill_null(pc.is_finite(column), False) if pt.is_floating(column.type) else pc.is_valid(column)
            found = np.where(there.to_numpy(), found, np.nan)
    return np.where(rows[f"w|{field.where}"].to_numpy(), found, np.nan) if field.where else found


def horizon(event: Int64, known: Int64) -> Int64:
    """Until when a row can matter, apart from the width of windows: the later of its two clocks, or the known one if it never happens."""
    return np.where(event == FOREVER, known, np.maximum(event, known))


def _micros(column: pa.ChunkedArray) -> Int64:
    plain = pc.fill_null(pc.cast(column, pa.timestamp("us", "UTC"), safe=False).cast(pa.int64()), FOREVER)
    return np.asarray(plain.to_numpy(), dtype=np.int64)


def _shown(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as features and requests have them: plain types, times in microseconds, -0.0 as 0.0."""
    kind = column.type
    if pt.is_dictionary(kind):
        return _shown(column.cast(kind.value_type))
    if pt.is_timestamp(kind):
        return pc.cast(column, pa.timestamp("us", kind.tz), safe=False)
    if pt.is_integer(kind) and not pt.is_uint64(kind):
        return column.cast(pa.int64())
    if pt.is_floating(kind):
        return pc.add(column.cast(pa.float64()), pa.scalar(0.0))
    return column.cast(pa.string()) if pt.is_large_string(kind) else column


def _measure(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pt.is_dictionary(kind):
        return _measure(name, column.cast(kind.value_type))
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind) or pt.is_null(kind)):
        raise InvalidError(f"column {name!r} is {kind}; it cannot be aggregated (use latest())")
    numbers = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan)
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(np.nan))

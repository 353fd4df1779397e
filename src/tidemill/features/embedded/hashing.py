"""64 bits of values and rows, a column at a time; the same on every machine and in every version, for they are stored.

Equal values have equal hashes whatever Arrow type they come in: 1, 1.0 and int8 1; text, large text and dictionary; seconds and microseconds.
Two different rows of 10^8 share a hash with probability 3e-4; what compares hashes compares their times as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_LONG = 256
"""Bytes from which a text is hashed by itself instead of a word at a time with the others."""
_PIECE = 32_768
"""Rows at a time: what is worked on stays in the processor's cache."""
_NAN = np.uint64(0x7FF8_0000_0000_0001)


def mix(words: UInt64) -> UInt64:
    """Scramble each word (the finaliser of splitmix64, Steele et al. 2014); a bijection."""
    out = words ^ (words >> np.uint64(30))
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out


def digests(rows: pa.Table) -> UInt64:
    """Hash of each row's names and non-null values, so that a column added later changes nothing."""
    seeds = [seed(name) for name in rows.column_names]
    found = [_digests(rows.slice(first, _PIECE), seeds) for first in range(0, rows.num_rows, _PIECE)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)


def _digests(rows: pa.Table, seeds: Sequence[np.uint64]) -> UInt64:
    total = np.zeros(rows.num_rows, dtype=np.uint64)
    for column, of_name in zip(rows.columns, seeds, strict=True):
        words, null = words_of(column)
        part = mix(words + of_name)
        if null is not None:
            part[null] = 0
        total += part
    return mix(total)


def combined(columns: Sequence[pa.ChunkedArray | pa.Array], length: int) -> tuple[UInt64, Bools]:
    """Hash of each row's values in order, and where one of them is null (or NaN)."""
    total, missing = np.full(length, seed("key"), dtype=np.uint64), np.zeros(length, dtype=bool)
    for column in columns:
        words, null = words_of(column)
        total = mix(total ^ words) + np.uint64(1)
        if null is not None:
            missing |= null
        if pt.is_floating(column.type):
            missing |= words == _NAN
    return total, missing


def seed(name: str) -> np.uint64:
    """A word for a name."""
    return np.uint64(int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little"))


def words_of(column: pa.ChunkedArray | pa.Array) -> tuple[UInt64, Bools | None]:
    """A word for each value, equal for equal values, and where it is null (None: nowhere)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than one array can hold
        array = pa.concat_arrays(array.chunks)
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    null = np.asarray(array.is_null()) if array.null_count else None
    kind = array.type
    if pt.is_null(kind):
        return np.zeros(len(array), dtype=np.uint64), np.ones(len(array), dtype=bool)
    if pt.is_floating(kind):
        return _floats(np.asarray(pc.fill_null(array.cast(pa.float64()), 0.0), dtype=np.float64)), null
    if pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_temporal(kind):
        return _integers(array), null
    if pt.is_string(kind) or pt.is_binary(kind) or pt.is_large_string(kind) or pt.is_large_binary(kind):
        return _texts(array), null
    if pt.is_decimal(kind):
        return _texts(array.cast(pa.string())), null
    return _others(array), null


def _integers(array: pa.Array) -> UInt64:
    kind = array.type
    if pt.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pt.is_duration(kind):
        array = array.cast(pa.duration("us"), safe=False)
    elif pt.is_date64(kind):
        array = array.cast(pa.date32())
    elif pt.is_time32(kind) or pt.is_time64(kind):
        array = array.cast(pa.time64("us"), safe=False)
    if pt.is_date32(array.type):
        array = array.cast(pa.int32())
    if pt.is_uint64(kind):
        return np.asarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False), dtype=np.uint64).copy()
    plain = pc.fill_null(array.cast(pa.int64()), 0)
    return np.asarray(plain.to_numpy(zero_copy_only=False), dtype=np.int64).view(np.uint64).copy()


def _floats(values: npt.NDArray[np.float64]) -> UInt64:
    values = values + 0.0  # -0.0 is 0.0
    words = values.view(np.uint64).copy()
    with np.errstate(invalid="ignore"):
        whole = (np.floor(values) == values) & (np.abs(values) < 2.0**63)
        words[whole] = values[whole].astype(np.int64).view(np.uint64)
    words[np.isnan(values)] = _NAN
    return words


def _texts(array: pa.Array) -> UInt64:
    """A word of 8 bytes at a time, for all texts that are long enough."""
    if not (pt.is_large_string(array.type) or pt.is_large_binary(array.type)):
        array = array.cast(pa.large_binary() if pt.is_binary(array.type) else pa.large_string())
    n = len(array)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + n + 1]
    start, size = offsets[:-1], np.diff(offsets)
    total = mix(size.astype(np.uint64) + seed("text"))
    if data_buffer is None or not len(data_buffer) or not size.max(initial=0):
        return total
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + 8, dtype=np.uint8)
    data[: last - first] = np.frombuffer(data_buffer, dtype=np.uint8)[first:last]
    words = np.ndarray((last - first + 1,), dtype="<u8", buffer=data, strides=(1,))
    start = start - first
    live = np.flatnonzero((size > 0) & (size <= _LONG))
    at, left = start[live], size[live]
    while len(live):
        word = words[at]
        short = left < 8
        if short.any():
            word[short] &= (np.uint64(1) << (left[short].astype(np.uint64) * np.uint64(8))) - np.uint64(1)
        total[live] = mix(total[live] ^ word)
        more = left > 8
        live, at, left = live[more], at[more] + 8, left[more] - 8
    for i in np.flatnonzero(size > _LONG):
        body = data[start[i] : start[i] + size[i]].tobytes()
        total[i] = int.from_bytes(blake2b(body, digest_size=8).digest(), "little")
    return total


def _others(array: pa.Array) -> UInt64:
    """Lists, structs and what else there is, one value at a time."""
    encode = msgspec.msgpack.Encoder(order="sorted", enc_hook=str).encode
    found = [int.from_bytes(blake2b(encode(v), digest_size=8).digest(), "little") for v in array.to_pylist()]
    return np.array(found, dtype=np.uint64)

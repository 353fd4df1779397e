"""Open Inference Protocol v2, binary tensors: raw little-endian values behind the JSON, or in gRPC's `raw_input_contents`.

Source: the "Binary Tensor Data Extension" of the protocol, as KServe and Triton publish it. A text is four bytes of length and
its UTF-8 bytes. NaN means a missing value here, because raw floats have no null.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.core.errors import InvalidError
from tidemill.serving.protocol import TENSORS, Tensor

EXTENSION = "binary_tensor_data"
_DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_PACK_LENGTH, _READ_LENGTH = struct.Struct("<I").pack, struct.Struct("<I").unpack_from


def tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> Tensor:
    """An input from its raw bytes. Raises `InvalidError` when they are not what datatype and shape say."""
    if datatype not in TENSORS:
        raise InvalidError(f"input {name!r} has datatype {datatype!r}; known: {', '.join(sorted(TENSORS))}")
    if any(size < 0 for size in shape):
        raise InvalidError(f"input {name!r} has shape {shape}; no dimension is negative")
    count = 1
    for size in shape:
        count *= size
    data = _texts(name, raw) if datatype == "BYTES" else _numbers(name, datatype, count, raw)
    if len(data) != count:
        raise InvalidError(f"input {name!r} says shape {shape}, which is {count} values, and has {len(data)}")
    return TENSORS[datatype](name, shape, data)


def _numbers(name: str, datatype: str, count: int, raw: bytes) -> list[Any]:
    dtype = np.dtype(_DTYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise InvalidError(f"input {name!r} has {len(raw)} bytes; {count} values of {datatype} are {count * dtype.itemsize}")
    values = np.frombuffer(raw, dtype)
    data: list[Any] = values.tolist()
    if dtype.kind == "f" and not np.isfinite(values).all():
        if np.isinf(values).any():
            raise InvalidError(f"input {name!r} has an infinite value; send finite numbers, or NaN for a missing value")
        data = [value if value == value else None for value in data]
    if datatype == "UINT64" and count and int(values.max()) > 2**63 - 1:
        raise InvalidError(f"input {name!r} has a whole number above 2**63 - 1")
    return data


def _texts(name: str, raw: bytes) -> list[Any]:
    out, at = list[Any](), 0
    while at < len(raw):
        if at + 4 > len(raw) or at + 4 + (size := _READ_LENGTH(raw, at)[0]) > len(raw):
            raise InvalidError(f"input {name!r} ends within a text: each is four bytes of length, least first, and that many bytes")
        try:
            out.append(raw[at + 4 : at + 4 + size].decode())
        except UnicodeDecodeError as error:
            raise InvalidError(f"input {name!r} has a text that is not UTF-8: {error.reason}") from error
        at += 4 + size
    return out


def raw(datatype: str, data: Sequence[Any]) -> bytes:
    """The raw bytes of an output."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in data]
        return b"".join([part for text in texts for part in (_PACK_LENGTH(len(text)), text)])
    return np.asarray(data, _DTYPES[datatype]).tobytes()

"""How step results are kept: JSON values, Arrow tables, arrays and bytes. Equal values have equal digests."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core import digests
from tidemill.core.arrow import read_table, table_bytes
from tidemill.core.errors import InvalidError
from tidemill.pipelines.ports import Codec
from tidemill.versioning.ports import BlobStore

INLINE_BYTES = 16_384
"""JSON up to this size is kept in the ledger itself, beside its digest."""
_HEAD = b"tidemill json\n"  # so that the number 1 and the bytes b"1" have different digests


class JsonCodec:
    """None, booleans, integers, floats (exact; NaN and infinities too), texts, bytes, and lists, tuples and dicts of them."""

    name = "json"

    def handles(self, value: Any) -> bool:
        """Whether the value is built of nothing but these types."""
        try:
            _plain(value)
        except InvalidError:
            return False
        return True

    def store(self, value: Any, blobs: BlobStore) -> dict[str, Any]:
        """Keep small values in the description, larger ones as a blob; the items of a small dict can be had one by one."""
        out = self._one(value, blobs)
        if isinstance(value, dict) and len(value) <= 64:
            out["items"] = {key: {"codec": self.name, **self._one(item, blobs)} for key, item in value.items()}
        return out

    @staticmethod
    def _one(value: Any, blobs: BlobStore) -> dict[str, Any]:
        plain = _plain(value)
        body = _HEAD + digests.canonical_json(plain)
        if len(body) <= INLINE_BYTES:
            return {"digest": digests.of_bytes(body), "size_bytes": len(body), "value": plain}
        return {"digest": blobs.put(body), "size_bytes": len(body)}

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> Any:
        """Read it back. Raises `CorruptError`."""
        plain = (
            description["value"]
            if "value" in description
            else json.loads(blobs.fetch(description["digest"]).read_bytes().removeprefix(_HEAD))
        )
        return _rich(plain)


class BytesCodec:
    """Bytes as they are."""

    name = "bytes"

    def handles(self, value: Any) -> bool:
        """Whether it is bytes."""
        return isinstance(value, bytes)

    def store(self, value: bytes, blobs: BlobStore) -> dict[str, Any]:
        """One blob."""
        return {"digest": blobs.put(value), "size_bytes": len(value)}

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> bytes:
        """Read it back. Raises `CorruptError`."""
        return blobs.fetch(description["digest"]).read_bytes()


class ArrowCodec:
    """Arrow tables as one IPC file; chunks are combined first, so that equal tables have equal bytes."""

    name = "arrow"

    def handles(self, value: Any) -> bool:
        """Whether it is a table."""
        return isinstance(value, pa.Table)

    def store(self, value: pa.Table, blobs: BlobStore) -> dict[str, Any]:
        """One blob."""
        body = table_bytes(value)
        return {"digest": blobs.put(body), "size_bytes": len(body), "rows": value.num_rows}

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> pa.Table:
        """Read it back, memory-mapped. Raises `CorruptError`."""
        return read_table(str(blobs.fetch(description["digest"])))


class ArrayCodec:
    """NumPy arrays of numbers, times and fixed-size texts."""

    name = "array"

    def handles(self, value: Any) -> bool:
        """Whether it is an array without Python objects."""
        return isinstance(value, np.ndarray) and not value.dtype.hasobject

    def store(self, value: Any, blobs: BlobStore) -> dict[str, Any]:
        """One blob in NumPy's own format."""
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(value), allow_pickle=False)
        return {"digest": blobs.put(file.getvalue()), "size_bytes": file.tell(), "shape": list(value.shape)}

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> Any:
        """Read it back. Raises `CorruptError`."""
        return np.load(blobs.fetch(description["digest"]), allow_pickle=False)


def default_codecs() -> tuple[Codec, ...]:
    """The codecs for values that belong to no stage."""
    return (BytesCodec(), JsonCodec(), ArrowCodec(), ArrayCodec())


def _plain(value: Any) -> Any:
    """JSON for a value; what JSON lacks is a dict with the key NUL. Raises `InvalidError` for other types."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"\0": "float", "value": repr(float(value))}
    if kind is bytes:
        return {"\0": "bytes", "value": base64.b64encode(value).decode()}
    if kind is tuple:
        return {"\0": "tuple", "value": [_plain(item) for item in value]}
    if kind is list:
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) and key != "\0" for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise InvalidError(f"a {kind.__name__} is no JSON value")


def _rich(plain: Any) -> Any:
    """The value of `_plain`'s JSON."""
    if isinstance(plain, list):
        return [_rich(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kind = plain.get("\0")
    if kind is None:
        return {key: _rich(item) for key, item in plain.items()}
    if kind == "float":
        return float(plain["value"])
    return base64.b64decode(plain["value"]) if kind == "bytes" else tuple(_rich(item) for item in plain["value"])

"""The answer that most calls get, one row with its score and id, put together from pieces that stay the same."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from tidemill.adapters.grpc.messages import message

_DOUBLE = struct.Struct("<d").pack
_TENSOR, _CONTENTS = message("InferOutputTensor"), message("InferTensorContents")
# of fields 3 (id) and 5 (outputs) of the response, 5 (contents) of a tensor and 8 (bytes_contents) of contents
_ID, _OUTPUT, _INSIDE, _TEXT = b"\x1a", b"\x2a", b"\x2a", b"\x42"
_SCORE = _TENSOR(name="score", datatype="FP64", shape=[1], contents=_CONTENTS(fp64_contents=[0.0])).SerializeToString()[:-8]
_NAMED = _TENSOR(name="id", datatype="BYTES", shape=[1]).SerializeToString()


def _sized(data: bytes) -> bytes:
    """Bytes with their length before them."""
    size, out = len(data), bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + data


@lru_cache(maxsize=256)
def _head(model: str, version: int, role: str, logged: bool | str) -> bytes:
    """All but the id and the outputs."""
    out = message("ModelInferResponse")(model_name=model, model_version=str(version))
    out.parameters["role"].string_param = role
    if isinstance(logged, bool):
        out.parameters["logged"].bool_param = logged
    else:
        out.parameters["logged"].string_param = logged
    encoded: bytes = out.SerializeToString()
    return encoded


def plain(name: str, row: str, model: str, answer: Any, logged: bool | str) -> bytes:
    """The response for one row: `name` is the call's id, `row` the prediction's."""
    score = _OUTPUT + _sized(_SCORE + _DOUBLE(answer.score))
    text = _INSIDE + _sized(_TEXT + _sized(row.encode()))
    return _head(model, answer.version, answer.role, logged) + _ID + _sized(name.encode()) + score + _OUTPUT + _sized(_NAMED + text)

"""The content of values as JSON, for cache keys: what counts is what a value says, not which object it is."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.pipelines.ports import Step


def describe(value: Any, *, code: Callable[[Any], Any], unknown: Callable[[Any], Any], depth: int = 0) -> Any:
    """A JSON value with the same content as `value`. `code` answers for functions, `unknown` for what cannot be told."""
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return _number(float(value))
    if depth > 40:
        return unknown(value)

    def inner(item: Any) -> Any:
        return describe(item, code=code, unknown=unknown, depth=depth + 1)

    if isinstance(value, Mapping):
        return _mapping(value, inner)
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted((inner(item) for item in value), key=repr)}
    if isinstance(value, Step | FunctionType | BuiltinFunctionType | type):
        return code(value)
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: inner(getattr(value, f.name)) for f in fields(value) if f.compare}
        return {"type": type(value).__qualname__, **body}
    simple = _simple(value)
    return simple if simple is not None else unknown(value)


def _mapping(value: Mapping[Any, Any], inner: Callable[[Any], Any]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {key: inner(item) for key, item in value.items()}
    return {"pairs": sorted(([inner(key), inner(item)] for key, item in value.items()), key=repr)}


def _number(value: float) -> float | dict[str, str]:
    return value if math.isfinite(value) else {"float": repr(value)}


def _simple(value: Any) -> Any:
    """Types without parts."""
    if isinstance(value, bytes | bytearray):
        return {"bytes": base64.b64encode(value).decode()} if len(value) < 200 else {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, date | datetime | time | timedelta | PurePath):
        return {"type": type(value).__name__, "value": str(value)}
    if isinstance(value, Enum):
        return {"type": type(value).__qualname__, "value": value.name}
    if isinstance(value, re.Pattern):
        return {"pattern": str(value.pattern), "flags": value.flags}
    if isinstance(value, np.generic):
        return value.item() if not isinstance(value, np.datetime64 | np.timedelta64) else str(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {
            "array": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(),
            "dtype": str(value.dtype),
            "shape": list(value.shape),
        }
    if isinstance(value, pa.DataType | pa.Schema | np.dtype):
        return {"type": type(value).__name__, "value": str(value)}
    return None

"""Requests as the Open Inference Protocol has them: from rows by column name to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidemill.core.errors import InvalidError

_TYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


def tensors(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One tensor a column, typed by its values. Raises `InvalidError` for a column whose values are not all of one kind."""
    out = []
    for name in columns:
        data = [row.get(name) for row in rows]
        kinds = {type(v) for v in data if v is not None}
        kind = float if kinds == {int, float} else next(iter(kinds), float)
        if kind not in _TYPES or (len(kinds) > 1 and kind is not float):
            raise InvalidError(f"{name} must be a number, a text or a boolean in every request, all of one kind")
        out.append({"name": name, "shape": [len(rows)], "datatype": _TYPES[kind], "data": data})
    return out

"""By what a request is routed when a rollout is sticky: the entity it is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.errors import InvalidError


def keys_of(
    column: str, ids: Sequence[str], requests: Sequence[Mapping[str, Any]], inputs: Sequence[Sequence[Any]], columns: Sequence[str]
) -> list[str]:
    """The routing key of each request: the text of its value in `column`; a null names no entity, so there the id decides.

    Args:
        column: the request column, or model input, that names the entity.
        ids: of the requests.
        requests: what they carried.
        inputs: what their model reads, aligned with `columns`.
        columns: names of the inputs.

    Raises:
        InvalidError: a request does not say which entity it is about.
    """
    place = columns.index(column) if column in columns else -1
    return [
        _text(column, request.get(column) if column in request else row[place] if place >= 0 else _MISSING, id_)
        for id_, request, row in zip(ids, requests, inputs, strict=True)
    ]


def share_of(salt: str, key: str) -> float:
    """The place of a key in [0, 1), the same always and everywhere; under another salt it is another one."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SPAN


_SPAN = float(1 << 64)
_MISSING = object()


def _text(column: str, value: Any, id_: str) -> str:
    """Equal values have equal texts, whether JSON wrote them as whole numbers or with a point."""
    if value is _MISSING:
        raise InvalidError(f"the request lacks {column!r}, which decides which version answers it; send that column too")
    if value is None:
        return id_
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{column}={value}"

"""How things are spelled in a Feast repository."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import pyarrow as pa


def feast_type(kind: pa.DataType) -> str | None:
    """Feast's type of a column, None where it has none that keeps the values."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    for test, name in (
        (types.is_boolean, "Bool"), (types.is_int64, "Int64"), (types.is_uint32, "Int64"), (types.is_integer, "Int32"), (types.is_float64, "Float64"),
        (types.is_float32, "Float32"), (types.is_string, "String"), (types.is_large_string, "String"), (types.is_timestamp, "UnixTimestamp"),
    ):  # fmt: skip
        if test(kind):
            return "Int64" if types.is_uint64(kind) else name
    return None


def facts(thing: object) -> str:
    """Description, owner and tags as Feast's arguments; a tag `a=b` is the pair again."""
    out = "".join(f", {word}={q(value)}" for word in ("description", "owner") if (value := getattr(thing, word, "")))
    tags = dict(tag.partition("=")[::2] for tag in getattr(thing, "tags", ()))
    return out + (f", tags={json.dumps(tags, ensure_ascii=False)}" if tags else "")


def variable(kind: str, name: str) -> str:
    """A variable's name; entities, views and services may have one name, their variables may not."""
    return re.sub(r"\W", "_", name) + "_" + kind


def q(text: str) -> str:
    """A text as a Python literal."""
    return json.dumps(text, ensure_ascii=False)


def laid_out(parts: Sequence[str]) -> str:
    """Parts with one blank line between them, two around functions and classes."""
    out = [parts[0]]
    for before, part in itertools.pairwise(parts):
        out += ["\n\n\n" if any(p.startswith(("def ", "class ", "async def ", "@")) for p in (before, part)) else "\n\n", part]
    return "".join(out) + "\n"

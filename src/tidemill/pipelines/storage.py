"""Keeps and reads step results through the codecs, and dicts and lists of results item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core import digests
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.pipelines.ports import Codec
from tidemill.versioning.ports import BlobStore

Description = Mapping[str, Any]


class Storage:
    """Values by description: `{"codec", "digest", …}`; a container of stored values has its parts under `items`."""

    def __init__(self, blobs: BlobStore, codecs: Sequence[Codec]) -> None:
        self._blobs = blobs
        self._codecs = {codec.name: codec for codec in codecs}

    def store(self, value: Any, where: str) -> dict[str, Any]:
        """Keep a value. Raises `InvalidError` naming `where` when no codec takes it."""
        for codec in self._codecs.values():
            if codec.handles(value):
                return {"codec": codec.name, **codec.store(value, self._blobs)}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            items = {key: self.store(item, f"{where}[{key!r}]") for key, item in value.items()}
            return {"codec": "dict", "digest": digests.of_json({k: v["digest"] for k, v in items.items()}), "items": items}
        if isinstance(value, list | tuple):
            parts = [self.store(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return {"codec": "list", "digest": digests.of_json([p["digest"] for p in parts]), "parts": parts}
        raise InvalidError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which nothing here can keep; return numbers, texts, "
            f"lists, dicts, Arrow tables, arrays, training sets or models (codecs: {', '.join(self._codecs)})"
        )

    def load(self, description: Description, where: str) -> Any:
        """Read a value back. Raises `CorruptError`, `NotFoundError`."""
        kind = description["codec"]
        if kind == "dict":
            return {key: self.load(item, f"{where}[{key!r}]") for key, item in description["items"].items()}
        if kind == "list":
            return [self.load(part, f"{where}[{i}]") for i, part in enumerate(description["parts"])]
        if kind not in self._codecs:
            raise NotFoundError(f"{where} was kept by the codec {kind!r}, which this stack does not have")
        return self._codecs[kind].load(description, self._blobs)

    def present(self, description: Description) -> bool:
        """Whether all blobs behind a description still exist."""
        if description["codec"] in ("dict", "list"):
            return all(self.present(part) for part in _parts(description))
        if "value" in description:
            return True
        try:
            self._blobs.size_bytes(description["digest"])
        except NotFoundError:
            return False
        return True

    @staticmethod
    def item(description: Description, name: str, where: str) -> Description:
        """The description of one item of a dict. Raises `InvalidError` when there is none."""
        items = description.get("items") or {}
        if name not in items:
            raise InvalidError(f"{where} has no item {name!r}; it has {', '.join(map(repr, items)) or 'no items (it is no dict)'}")
        found: Description = items[name]
        return found


def _parts(description: Description) -> Sequence[Description]:
    return list(description["items"].values()) if description["codec"] == "dict" else list(description["parts"])

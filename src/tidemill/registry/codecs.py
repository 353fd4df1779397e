"""How model versions are kept between steps: by reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.core.digests import of_json
from tidemill.registry.ports import ModelRegistry, ModelVersion


class ModelVersionCodec:
    """Model versions as name, number and artifact digest; reading one asks the registry, so its aliases and status are those of now."""

    name = "model_version"

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def handles(self, value: Any) -> bool:
        """Whether it is a model version."""
        return isinstance(value, ModelVersion)

    def store(self, value: ModelVersion, blobs: Any) -> dict[str, Any]:  # noqa: ARG002 - the registry has it
        """A reference."""
        kept = {"name": value.name, "version": value.version, "artifact": value.digest}
        return {"digest": of_json(kept), "value": kept}

    def load(self, description: Mapping[str, Any], blobs: Any) -> ModelVersion:  # noqa: ARG002
        """The version as it is now. Raises `NotFoundError`."""
        return self._registry.get(description["value"]["name"], int(description["value"]["version"]))

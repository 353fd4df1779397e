"""How training sets and models are kept between steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tidemill.core.arrow import read_table, table_bytes
from tidemill.core.digests import canonical_json
from tidemill.core.policy import ModelPolicy
from tidemill.training.learners import allowing
from tidemill.training.package import pack_model, read_model
from tidemill.training.ports import Model, TrainingSet
from tidemill.versioning.ports import BlobStore

_KEY = b"tidemill"


class TrainingSetCodec:
    """Training sets as one Arrow file; the schema's metadata holds the rest of the content, the description the snapshots."""

    name = "training_set"

    def handles(self, value: Any) -> bool:
        """Whether it is a training set."""
        return isinstance(value, TrainingSet)

    def store(self, value: TrainingSet, blobs: BlobStore) -> dict[str, Any]:
        """One blob, the same for equal content whatever snapshots it was read from."""
        head = {
            "service": value.service,
            "features": list(value.features),
            "categories": {name: list(values) for name, values in value.categories.items()},
            "until_us": value.until_us,
            "holdout_us": value.holdout_us,
        }
        body = table_bytes(value.table.replace_schema_metadata({_KEY: canonical_json(head)}))
        return {
            "digest": blobs.put(body),
            "size_bytes": len(body),
            "rows": len(value),
            "snapshots": dict(value.snapshots),
            "meta": dict(value.meta),
        }

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> TrainingSet:
        """Read it back, memory-mapped. Raises `CorruptError`."""
        table = read_table(str(blobs.fetch(description["digest"])))
        head = json.loads(table.schema.metadata[_KEY])
        return TrainingSet(
            head["service"],
            table.replace_schema_metadata(None),
            tuple(head["features"]),
            {name: tuple(values) for name, values in head["categories"].items()},
            head["until_us"],
            description.get("snapshots", {}),
            head["holdout_us"],
            description.get("meta", {}),
        )


class ModelCodec:
    """Models as MLflow Model directories: what a step returns is already the artifact that is registered and served."""

    name = "model"

    def __init__(self, policy: ModelPolicy | None = None) -> None:
        self._policy = policy or ModelPolicy()

    def handles(self, value: Any) -> bool:
        """Whether it is a model."""
        return isinstance(value, Model)

    def store(self, value: Model, blobs: BlobStore) -> dict[str, Any]:
        """One folder. Raises `InvalidError`, `RefusedError` where the model cannot be packed."""
        with TemporaryDirectory(prefix="tidemill-model-") as name, allowing(self._policy):
            folder = Path(name) / "model"
            folder.mkdir()
            facts = pack_model(value, folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
            digest = blobs.put(folder)
        measured = {k: facts[k] for k in ("onnx_difference",) if k in facts}  # not in meta: what is read back is what was returned
        return {"digest": digest, "size_bytes": size, "flavor": value.flavor, **measured, "meta": dict(value.meta)}

    def load(self, description: Mapping[str, Any], blobs: BlobStore) -> Model:
        """Read it back. Raises `CorruptError`."""
        return read_model(blobs.fetch(description["digest"]), description.get("meta"))

"""The `register` step: a model that a pipeline has fitted becomes a model version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.core.arrow import read_table
from tidemill.core.errors import InvalidError
from tidemill.pipelines.ports import Step, StepContext, current
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.training.ports import Model
from tidemill.validation.ports import Profiler
from tidemill.versioning.ports import BlobStore


def _register(model: Model, evaluation: Mapping[str, Any] | None = None, name: str = "") -> ModelVersion:
    """Register `model` under `name` (default: the service it was trained for).

    The artifact is the directory under which the step that made the model has been kept, so `model` must be the output of a step.

    Args:
        model: what a fit step returned.
        evaluation: what `evaluate` said of it; its numbers become the version's metrics.
        name: the model's name.
    """
    context = current()
    digest = context.digest_of(model)
    if not digest:
        raise InvalidError("register() takes the output of a step, because that is what was kept; pass the model that a fit step returned")
    name = name or str(model.meta.get("service", ""))
    if not name:
        raise InvalidError("the model does not say which service it is for; pass register(..., name=…)")
    given = dict(evaluation or {})
    metrics = {key: float(value) for key, value in given.items() if isinstance(value, float) and value == value}
    meta = {
        **{key: value for key, value in model.meta.items() if key != "example"},
        "flavor": model.flavor,
        "params": dict(model.params),
        "signature": {"inputs": list(model.features), "categorical": sorted(model.categories)},
        "trained_until_us": model.trained_until_us,
        "evaluation": given,
        "baseline": _baseline(model, context),
    }
    registry = context.resource(ModelRegistry)  # type: ignore[type-abstract]
    return registry.register(name, digest, run_id=context.run_id, metrics=metrics, meta=meta, at_us=context.clock.now_us())


def _baseline(model: Model, context: StepContext) -> str:
    """Digest of the profile of the inputs that the model was trained on; "" where there is no profiler or no kept training set."""
    profiler: Profiler | None = context.resources.get(Profiler)
    blobs: BlobStore | None = context.resources.get(BlobStore)
    dataset = str(model.meta.get("dataset", ""))
    if profiler is None or blobs is None or not dataset:
        return ""
    rows = read_table(str(blobs.fetch(dataset)))
    return blobs.put(profiler.profile(rows, list(model.features)).to_bytes())


register = Step(_register, "register")

"""Making a `Model` of what a library has fitted, and scoring with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError
from tidemill.core.policy import ModelPolicy
from tidemill.pipelines.ports import current
from tidemill.training.flavors import flavor_of
from tidemill.training.ports import Matrix, Model, TrainingSet
from tidemill.training.rows import times_us

# OpenMP threads that spin while they wait make a fit ten times slower as soon as another process wants a core. OpenMP reads this once, when
# LightGBM is first loaded, so it also stands where processes of ours begin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

EXAMPLES = 5
"""Rows of the training set that a model carries as its input example."""


def deterministic(seed: int = 0, *, threads: int | None = None) -> dict[str, Any]:
    """LightGBM parameters with which equal rows give an equal model, bit by bit.

    Args:
        seed: for bagging and column sampling.
        threads: how many threads; the result does not depend on it. Default: as many as the running step may keep busy, which is half of
            the cores where models are served beside it and all of them in a replay; outside of a step `OMP_NUM_THREADS`, or one.
    """
    if threads is None:
        try:
            threads = current().cores
        except InvalidError:
            threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return {
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": max(1, threads),
        "seed": seed,
        "verbosity": -1,
    }


def lightgbm_model(booster: Any, rows: TrainingSet, params: Mapping[str, Any] | None = None) -> Model:
    """A `Model` of a fitted `lightgbm.Booster`.

    Args:
        booster: the fitted booster; its columns are those of `encode(rows)`.
        rows: what it was fitted on.
        params: what to remember about how.

    Raises:
        InvalidError: the booster has other columns than the rows.
    """
    if booster.num_feature() != len(rows.features):
        raise InvalidError(f"the booster was fitted on {booster.num_feature()} columns, the training set has {len(rows.features)}")
    params = {**(params or {}), "trees": booster.num_trees()}
    # Equal trees are equal bytes, however many threads made them.
    native = re.sub(r"\[num_threads: \d+\]", "[num_threads: 0]", booster.model_to_string()).encode()
    return Model("lightgbm", native, rows.features, dict(rows.categories), params, rows.until_us, provenance(rows))


def score(model: Model, x: Matrix) -> npt.NDArray[np.float64]:
    """Scores (n,) of encoded inputs (n, features): for a classifier the probability of 1."""
    return flavor_of(model.flavor).score(model, x)


_POLICY: ContextVar[ModelPolicy | None] = ContextVar("tidemill_model_policy", default=None)


def policy() -> ModelPolicy:
    """The loader's policy of the running step; outside of one, that which trusts nothing."""
    if (given := _POLICY.get()) is not None:
        return given
    try:
        return current().resources.get(ModelPolicy, ModelPolicy())  # type: ignore[no-any-return]
    except InvalidError:
        return ModelPolicy()


@contextmanager
def allowing(given: ModelPolicy) -> Iterator[None]:
    """Load models by this policy for the block, for what runs around steps."""
    token = _POLICY.set(given)
    try:
        yield
    finally:
        _POLICY.reset(token)


def provenance(rows: TrainingSet) -> dict[str, Any]:
    """Where a model comes from, as far as its training set and the running step know."""
    at = times_us(rows)
    out: dict[str, Any] = {
        "service": rows.service,
        "rows": len(rows),
        "trained_from_us": int(at[0]) if len(at) else 0,
        "trained_to_us": int(at[-1]) if len(at) else 0,
        "trained_until_us": rows.until_us,
        "holdout_us": rows.holdout_us,
        "snapshots": dict(rows.snapshots),
        "example": [list(row.values()) for row in rows.table.select(rows.features).slice(0, EXAMPLES).to_pylist()],
        **rows.meta,
    }
    try:
        out["dataset"] = current().digest_of(rows)
    except InvalidError:
        out["dataset"] = ""  # called outside of a run
    return out

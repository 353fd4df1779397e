"""How good scores are on labelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError
from tidemill.training.learners import score
from tidemill.training.ports import Model, TrainingSet
from tidemill.training.rows import encode, last_days, split_at

Floats = npt.NDArray[np.float64]
CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1, as the gate does."""


class ModelEvaluator:
    """The `Evaluator` for models that answer probabilities."""

    def split(self, rows: TrainingSet, share: float) -> tuple[TrainingSet, TrainingSet]:
        """The rows before, and those in, the last `share` (0 to 1) of their days."""
        return split_at(rows, last_days(rows, share))

    def measure(self, model: Model, rows: TrainingSet) -> Mapping[str, float]:
        """Quality of a model on rows: log_loss, brier, auc, n."""
        x, y = encode_for(model, rows)
        return metrics(y, score(model, x))


def encode_for(model: Model, rows: TrainingSet) -> tuple[npt.NDArray[np.float64], Floats]:
    """Rows as `model` sees them: in its column order, with its categories. Raises `InvalidError` for missing columns."""
    if missing := [name for name in model.features if name not in rows.table.column_names]:
        raise InvalidError(f"the rows lack {', '.join(missing)}, which the model reads")
    return encode(replace(rows, features=model.features, categories=model.categories))


def metrics(y: Floats, p: Floats) -> dict[str, float]:
    """Log loss, Brier score, AUC (NaN with one class only) and n of scores `p` for labels `y`, both (n,)."""
    if not len(y):
        raise InvalidError("there are no rows to measure a model on")
    if not np.isfinite(p).all():
        raise InvalidError("the model answers NaN or infinity for some rows; it cannot be judged")
    kept = np.clip(p, CLIP, 1 - CLIP)
    log_loss = float(-np.mean(y * np.log(kept) + (1 - y) * np.log1p(-kept)))
    return {"log_loss": log_loss, "brier": float(np.mean(np.square(p - y))), "auc": auc(y, p), "n": float(len(y))}


def auc(y: Floats, p: Floats) -> float:
    """Area under the ROC curve by ranks, ties counting half (Mann-Whitney U; Hanley and McNeil 1982); NaN with one class only."""
    positive = y > 0.5
    n1 = int(positive.sum())
    n0 = len(y) - n1
    if not n1 or not n0:
        return float("nan")
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))

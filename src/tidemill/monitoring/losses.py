"""Losses of single rows: what the gate, the rollout and the quality monitor all average."""

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError

Floats = npt.NDArray[np.float64]
CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1, so that one row costs at most 13.8 in log loss."""


def row_losses(metric: str, labels: Floats, scores: Floats) -> Floats:
    """Loss of each row, lower is better.

    Args:
        metric: `log_loss` or `brier`.
        labels: (n,) 0 or 1.
        scores: (n,) probabilities of 1.

    Returns:
        (n,) float64, aligned with the rows.

    Raises:
        InvalidError: an unknown metric, unequal lengths or a score that is not a finite number.
    """
    if labels.shape != scores.shape:
        raise InvalidError(f"{labels.size} labels do not fit {scores.size} scores")
    if not (np.isfinite(scores).all() and np.isfinite(labels).all()):
        raise InvalidError("a score or a label is not a finite number; a model that answers NaN cannot be judged")
    if metric == "brier":
        return np.square(scores - labels)
    if metric == "log_loss":
        kept = np.clip(scores, CLIP, 1 - CLIP)
        out: Floats = -(labels * np.log(kept) + (1 - labels) * np.log1p(-kept))
        return out
    raise InvalidError(f"{metric!r} is not a metric of single rows; use log_loss or brier")

"""Hyperparameter search."""

from tidemill.tuning.search import tune
from tidemill.tuning.space import choice, integer, log, real

__all__ = ["choice", "integer", "log", "real", "tune"]

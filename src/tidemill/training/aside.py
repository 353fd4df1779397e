"""Scoring by models that run in a process apart, while they are trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tidemill.core.errors import InvalidError
from tidemill.core.policy import ModelPolicy
from tidemill.training.learners import policy
from tidemill.training.ports import Matrix, Model

Caller = Callable[[Matrix], Matrix]
"""Scores matrices (n, features) of coded inputs."""


class Aside:
    """The process of the model that was asked last; one at a time is enough while training."""

    def __init__(self, start: Callable[[Model, ModelPolicy], Caller]) -> None:
        self._start = start
        self._callers: dict[tuple[bytes, ModelPolicy], Caller] = {}

    def score(self, model: Model, x: Matrix) -> Matrix:
        """Scores (n,) of encoded inputs. Raises what starting it raises, and `InvalidError` with the model's own words."""
        key = (model.native, policy())
        if key not in self._callers:
            self._callers.clear()
            self._callers[key] = self._start(model, key[1])
        try:
            return self._callers[key](np.asarray(x, dtype=np.float64))
        except RuntimeError as error:
            raise InvalidError(str(error)) from error

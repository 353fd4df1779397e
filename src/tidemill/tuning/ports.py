"""Hyperparameter search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Range:
    """One searched parameter. `kind` integer, real, log (real on a log scale) or choice; bounds are inclusive."""

    kind: Literal["integer", "real", "log", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated point. `state`: complete, pruned or failed."""

    number: int
    params: Mapping[str, Any]
    value: float | None
    state: str


@dataclass(frozen=True, slots=True)
class Study:
    """A finished search: the best parameters, their value (lower is better) and all trials."""

    id: str
    best: Mapping[str, Any]
    value: float
    trials: tuple[Trial, ...]


class Tuner(Protocol):
    """Searches for the parameters with the least objective.

    Guarantees, each checked by `tidemill.testing.tuning.TunerContract`:
        repeatable: the same objective, space, seed and trials give the same trials.
        resumable: a study with the same id goes on behind its finished trials.
        enqueued: points in `start` are tried first, in order.
        tolerant: a trial that raises counts as failed; only when all fail is it an error.
    """

    def search(
        self,
        study: str,
        objective: Callable[[Mapping[str, Any], Trial], float],
        space: Mapping[str, Range],
        *,
        trials: int,
        seed: int,
        start: tuple[Mapping[str, Any], ...] = (),
        now_us: int = 0,
    ) -> Study:
        """Run up to `trials` trials in total."""
        ...

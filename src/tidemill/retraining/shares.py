"""Shares of traffic that follow labelled quality: Thompson sampling, with the sampling done by the requests.

Each version answers the share of requests that is its probability of being the best, given the labels so far (Thompson 1933). The
posterior of a version's mean difference of losses to the live version is normal around the mean, as wide as its standard error with
correlated rows counted for less (see `sequences`); the live version's difference to itself is 0. A version with too few labels keeps the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

_POINTS, _REACH = 4001, 7.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """What is known of one version against the live one: mean difference of losses (negative: better), its standard error, labelled rows."""

    mean: float
    error: float
    n: int


def best(arms: Mapping[str, Arm]) -> tuple[dict[str, float], float]:
    """The probability of each arm of having the smallest mean, and that of the live version, of which 0 is known. They add up to 1."""
    if not arms:
        return {}, 1.0
    mean = np.array([a.mean for a in arms.values()])
    error = np.maximum(np.array([a.error for a in arms.values()]), 1e-12)
    low = float(min((mean - _REACH * error).min(), -1e-9))
    x = np.linspace(low, 0.0, _POINTS)
    below: Floats = ndtr((x - mean[:, None]) / error[:, None])
    live = float(np.prod(1 - below[:, -1]))
    chances = np.empty(mean.size)
    for i in range(mean.size):
        others = np.prod(np.delete(1 - below, i, axis=0), axis=0)
        chances[i] = float(((others[1:] + others[:-1]) / 2 * np.diff(below[i])).sum())
    total = chances.sum() + live
    return dict(zip(arms, (chances / total).tolist(), strict=True)), live / total


def shares(arms: Mapping[str, Arm], *, floor: float, enough: int) -> tuple[dict[str, float], dict[str, float]]:
    """The share of each arm and of the live version (name ""), and the probabilities that they follow.

    Each gets `floor`; what is left is divided by the probability of being the best among those with `enough` labelled rows.
    """
    told = {name: arm for name, arm in arms.items() if arm.n >= enough}
    chances, live = best(told)
    free = 1.0 - floor * (len(arms) + 1)
    out = {name: floor + free * chances.get(name, 0.0) for name in arms}
    return out | {"": 1.0 - sum(out.values())}, chances | {"": live}

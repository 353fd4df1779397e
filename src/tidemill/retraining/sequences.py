"""Anytime-valid intervals for a mean of paired differences: they hold at every look at once, so looking often costs nothing.

A canary is looked at on every turn of the loop. A fixed-n interval, tried that often, finds harm that is not there. A
*confidence sequence* covers the mean at all times together with probability 1 - alpha.

`asymptotic` follows Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (2021, Theorem 2.2), with their rho tuned to be tightest near a target n. It needs only mergeable sums.
`empirical_bernstein` follows Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2023,
Theorem 2): exact at every n, for bounded differences, and several times wider; the strict option.

Rows of one day share weather and traffic: their differences are correlated, and counting them as independent would promise too
much. A stage of a rollout lasts a few days, too few to take days as the units of an asymptotic statement. So rows are the units and
the variance is inflated by the design effect `1 + (m - 1) * icc` of blocks (days) of m rows (Kish 1965). The intraclass
correlation `icc` comes from the gate, which saw the same two models over many days, and from the rollout's own days as they come;
an underestimate would break the promise, so an upper limit of it is used (`upper_icc`).
Where a strict statement is wanted, `empirical_bernstein` takes block means as its units.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

Floats = npt.NDArray[np.float64]
DEFAULT_ICC = 0.05
"""Assumed where nothing has measured it."""
CONFIDENCE = 0.65
"""Of the upper limit of the correlation: chosen by simulation, so that few blocks keep the stated error rates (tests/unit/retraining)."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What an interval needs to know of n differences; sums of disjoint blocks add up. `pairs` is the sum of squared block sizes."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    pairs: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        """Both together; they must not share a block."""
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares, self.pairs + other.pairs)

    @property
    def mean(self) -> float:
        """The mean difference (0 of nothing)."""
        return self.total / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """The variance of one difference, with n - 1."""
        return max(0.0, self.squares - self.n * self.mean**2) / (self.n - 1) if self.n > 1 else inf

    def design_effect(self, icc: float) -> float:
        """How many times the variance of the mean is that of independent rows, at least 1."""
        return max(1.0, 1.0 + (self.pairs / self.n - 1.0) * icc) if self.n else 1.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence sequence's interval at one look; infinite where nothing can be said."""

    mean: float
    low: float
    high: float
    n: int
    design_effect: float


def sums(differences: Floats, blocks: npt.NDArray[np.int64]) -> Sums:
    """Sums of aligned differences and block numbers."""
    sizes = np.unique(blocks, return_counts=True)[1].astype(np.float64)
    return Sums(int(differences.size), float(differences.sum()), float(np.square(differences).sum()), float(np.square(sizes).sum()))


def asymptotic(given: Sums, *, alpha: float, target: float, icc: float = DEFAULT_ICC) -> Interval:
    """The asymptotic confidence sequence at n = `given.n`.

    Args:
        given: sums of all differences so far.
        alpha: total error rate over all looks and both sides; half of it on each.
        target: the number of independent differences at which the interval shall be tightest, > 0.
        icc: intraclass correlation of differences in one block, 0 to 1.
    """
    effect = given.design_effect(icc)
    if given.n < 2:
        return Interval(given.mean, -inf, inf, given.n, effect)
    n = given.n / effect
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / target
    half = sqrt(given.variance) * sqrt(2 * (n * rho2 + 1) / (n * n * rho2) * log(sqrt(n * rho2 + 1) / alpha))
    return Interval(given.mean, given.mean - half, given.mean + half, given.n, effect)


def intraclass(differences: Floats, blocks: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Estimate the intraclass correlation of differences within blocks.

    It compares the cluster-robust variance of the mean with that of independent rows.

    Returns:
        The estimate, 0 to 1, and its degrees of freedom (blocks - 1); (0, 0) where nothing can be said.
    """
    _, position, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    groups, n = sizes.size, differences.size
    if groups < 2 or n <= groups:
        return 0.0, 0
    residual = differences - differences.mean()
    independent = float(np.square(residual).sum()) / (n - 1) / n
    if independent == 0:
        return 0.0, groups - 1
    clustered = groups / (groups - 1) * float(np.square(np.bincount(position, weights=residual)).sum()) / n**2
    size = float(np.square(sizes.astype(np.float64)).sum()) / n
    return min(1.0, max(0.0, (clustered / independent - 1) / (size - 1))), groups - 1


def upper_icc(*estimates: tuple[float, int], size: float) -> float:
    """An upper limit of the correlation from independent estimates (icc, degrees), for blocks of about `size` rows.

    The estimates are averaged by their degrees of freedom; a design effect scatters like a chi-square on their sum.
    """
    degrees = sum(d for _, d in estimates)
    if not degrees or size <= 1:
        return DEFAULT_ICC
    effect = 1 + (size - 1) * sum(icc * d for icc, d in estimates) / degrees
    return min(1.0, max(0.0, (effect * degrees / float(chdtri(degrees, CONFIDENCE)) - 1) / (size - 1)))


def empirical_bernstein(units: Floats, *, bound: float, alpha: float) -> tuple[Floats, Floats]:
    """The predictable plug-in empirical-Bernstein confidence sequence, with running intersection.

    Args:
        units: (t,) independent differences (or block means), each in [-bound, bound].
        bound: greatest absolute difference.
        alpha: total error rate over all looks and both sides.

    Returns:
        Lower and upper ends after each unit, both (t,).
    """
    x = (units + bound) / (2 * bound)
    t = np.arange(1, x.size + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum(np.square(x - mean))) / (t + 1)
    before_mean = np.concatenate([[0.5], mean[:-1]])
    before_variance = np.concatenate([[0.25], variance[:-1]])
    bet = np.minimum(0.5, np.sqrt(2 * log(2 / alpha) / (before_variance * t * np.log1p(t))))
    weight = np.cumsum(bet)
    centre = np.cumsum(bet * x) / weight
    spread = 4 * np.square(x - before_mean) * (-np.log1p(-bet) - bet) / 4
    half = (log(2 / alpha) + np.cumsum(spread)) / weight
    low, high = np.maximum.accumulate(np.maximum(centre - half, 0)), np.minimum.accumulate(np.minimum(centre + half, 1))
    return low * 2 * bound - bound, high * 2 * bound - bound

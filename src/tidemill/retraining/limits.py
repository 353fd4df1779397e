"""What a candidate may not do whatever its labels say: fail, be slow, be asked about what it never learned from.

Failures and slow calls are compared with their limit at every look, so the test holds at all looks together. A call is one toss: under a
share of at most p0, the product over calls of (p/p0)^failed ((1-p)/(1-p0))^(not failed) is a supermartingale for each p above p0, and so
is its mean over such p. By Ville's inequality it ever reaches 1/alpha with probability at most alpha. The mean over
p uniform on [p0, 1] is a ratio of beta integrals. It is exact at every n: no call has to be waited for.

Drift is an index, not a test: it counts from `ENOUGH` rows on, since it grows like bins / n without any drift.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp, inf, log
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln

from tidemill.core.rollouts import Rollout
from tidemill.ledger.tallies import Counts
from tidemill.monitoring.ports import Observation

ENOUGH = 200
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limit:
    """One configured limit and what was seen of it. `log_e`: the log of the evidence against it, `needed`: from which on it is broken."""

    name: str
    limit: float
    seen: float | None
    n: int
    log_e: float | None
    needed: float | None
    broken: bool

    def as_json(self) -> dict[str, Any]:
        """For evidence."""
        return asdict(self)

    @property
    def said(self) -> str:
        """One line for people."""
        if self.name == "drift":
            return f"an input drifted by {self.seen or 0:.3f} over {self.n} rows, more than {self.limit:g}"
        did = {"errors": "failed in", "slow": "was slow in"}[self.name]
        odds = exp(min(self.log_e or 0.0, 50.0))
        return f"{did} {self.seen or 0:.2%} of {self.n} calls, more than {self.limit:.2%} allows (evidence {odds:.3g} to 1)"


def log_evidence(n: Numbers | int, k: Numbers | int, share: float) -> Numbers:
    """The log of the evidence that more than `share` of calls do what k of n did; aligned arrays, or numbers."""
    n, k = np.asarray(n, np.float64), np.asarray(k, np.float64)
    if share <= 0:
        return np.where(k > 0, inf, 0.0)
    with np.errstate(divide="ignore"):
        above = np.log(betainc(n - k + 1, k + 1, 1 - share))
    out: Numbers = betaln(k + 1, n - k + 1) + above - np.log1p(-share) - k * log(share) - (n - k) * np.log1p(-share)
    return out


def limits(rollout: Rollout, counts: Counts, drift: Observation | None) -> tuple[Limit, ...]:
    """Every configured limit with what was counted in the candidate's phase, and the newest drift of its inputs."""
    found: list[Limit] = []
    if rollout.errors is not None:
        found.append(_share("errors", rollout.errors, counts.calls, counts.failed, rollout.limit_alpha))
    if rollout.slow:
        found.append(_share("slow", rollout.slow_share, counts.calls, counts.slow, rollout.limit_alpha))
    if rollout.drift is not None:
        value, n = (drift.value, drift.n) if drift else (None, 0)
        found.append(Limit("drift", rollout.drift, value, n, None, None, value is not None and n >= ENOUGH and value > rollout.drift))
    return tuple(found)


def _share(name: str, limit: float, n: int, k: int, alpha: float) -> Limit:
    evidence, needed = float(log_evidence(n, k, limit)), log(1 / alpha)
    return Limit(name, limit, k / n if n else None, n, min(evidence, 1e6), needed, evidence >= needed)

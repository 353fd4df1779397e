"""How a version that passed the gate comes to answer: the settings of a rollout, checked when they are written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_duration

WEIGHTS = (0.1, 0.5)
_KINDS = ("canary", "blue_green", "thompson")


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a version goes from shadow to live, and what takes it back.

    `kind`: `canary` answers each weight of `canary` for `bake`, then everything. `blue_green` switches from shadow to everything at once and keeps
    the version before loaded for `warm`. `thompson` gives each version of a service the probability that it is the best by labelled quality as its
    share, at least `floor`, anew after each `bake`.

    `sticky`: a request column; requests with the same value are answered by the same version during a stage, and a growing weight
    never moves one back. Without it, a request's id decides.

    `margin`: how much the service as a whole may lose (in the gate's metric) at the next weight, by the upper bound of what the
    candidate has cost so far; at the last step it is the margin of the model itself. `settle` says of what that bound speaks: the
    `traffic` it was compared on, or `days` in general, which takes many days. Not settled within `give_up`, it is taken back.

    A candidate is taken back at once when it is shown to be worse by labels; when it fails in more than the share `errors` of requests; when more
    than the share `slow_share` of its answers take longer than `slow` (`"20ms"`); when an input has drifted by more than `drift`
    (population stability index) from what it was trained on. None, or empty, leaves a limit out. With probability at least 1 - `alpha`
    a candidate that is no worse and within its limits is never taken back by labels, errors and latency, however often they are looked at.
    """

    shadow: str = "1d"
    canary: tuple[float, ...] = WEIGHTS
    bake: str = "1d"
    alpha: float = 0.05
    margin: float = 0.02
    min_labels: int = 100
    give_up: str = "14d"
    kind: Literal["canary", "blue_green", "thompson"] = "canary"
    sticky: str = ""
    warm: str = ""
    floor: float = 0.0
    settle: Literal["traffic", "days"] = "traffic"
    errors: float | None = 0.01
    slow: str = ""
    slow_share: float = 0.01
    drift: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InvalidError(f"Rollout(kind={self.kind!r}): there is {', '.join(_KINDS)}")
        for name in ("shadow", "bake", "give_up", "warm", "slow"):
            if getattr(self, name):
                parse_duration(getattr(self, name))
        self._check_numbers()
        self._check_kind()

    def _check_numbers(self) -> None:
        if not 0 < self.alpha < 1:
            raise InvalidError(f"Rollout(alpha={self.alpha}): an error rate lies between 0 and 1, for example 0.05")
        weights = tuple(self.canary)
        if any(not 0 < w <= 1 for w in weights) or list(weights) != sorted(set(weights)):
            raise InvalidError(f"Rollout(canary={weights}): weights lie between 0 and 1 and grow, for example (0.1, 0.5)")
        object.__setattr__(self, "canary", weights)
        for name, top in (("errors", 1.0), ("slow_share", 1.0), ("drift", float("inf"))):
            value = getattr(self, name)
            if value is not None and not 0 <= value < top:
                raise InvalidError(f"Rollout({name}={value}): a limit is at least 0{' and below 1' if top == 1.0 else ''}")
        if self.settle not in ("traffic", "days"):
            raise InvalidError(f"Rollout(settle={self.settle!r}): there is traffic, days")

    def _check_kind(self) -> None:
        """Refuse what a kind cannot honour; fill in what only it has."""
        if self.kind != "canary":
            if self.canary not in ((), WEIGHTS):
                raise InvalidError(f"Rollout(kind={self.kind!r}) has no canary weights; leave canary= out, or use kind='canary'")
            object.__setattr__(self, "canary", ())
        if self.kind == "thompson" and self.sticky:
            raise InvalidError(
                f"Rollout(kind='thompson', sticky={self.sticky!r}): its weights fall as well as grow, which would move an entity to another "
                "version and back; use kind='canary' or 'blue_green' with sticky="
            )
        for name, kind, standard in (("warm", "blue_green", "1d"), ("floor", "thompson", 0.1)):
            if self.kind != kind and getattr(self, name):
                raise InvalidError(f"Rollout(kind={self.kind!r}) has no {name}; it belongs to kind={kind!r}")
            if self.kind == kind and not getattr(self, name):
                object.__setattr__(self, name, standard)
        if self.kind == "thompson" and not 0 < self.floor <= 0.5:
            raise InvalidError(
                f"Rollout(floor={self.floor}): each version keeps more than 0 and at most half of the requests, for example 0.1"
            )

    @property
    def arms(self) -> int:
        """How many versions may answer at the same time, the live one included."""
        return int(1 / self.floor + 1e-9) if self.kind == "thompson" else 2

    @property
    def tests(self) -> int:
        """How many of its limits are tested while they are looked at."""
        return (self.errors is not None) + bool(self.slow)

    @property
    def quality_alpha(self) -> float:
        """The share of `alpha` that the test of labelled quality may use up."""
        return self.alpha * (0.8 if self.tests else 1.0)

    @property
    def limit_alpha(self) -> float:
        """The share of `alpha` that one limit may use up in one phase, shadow or canary."""
        return self.alpha * 0.2 / (2 * self.tests) if self.tests else 0.0

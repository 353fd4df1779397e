"""The rollout: shadow, then canaries, each judged on labelled quality by intervals that hold at every look.

Every request is scored by the live model and by the candidate, so each labelled request gives one paired difference of losses, candidate -
live (positive: the candidate is worse). In shadow these are the candidate's shadow scores; from the first canary on, only the requests that the
candidate itself answered count: what was *served* is what is judged, so a fault in the canary's own path shows.

Late labels are not missing at random (a flight that is not yet known to be late is not yet known to be anything). So rows
enter in the order of their requests, up to the first whose label may still come; the order does not depend on the labels, and a
confidence sequence holds at every prefix.

Two questions, two bounds. *Is the candidate worse?* is about days in general: weather makes whole days good or bad for one
model, so the interval [low, high] counts correlated rows for less (see `sequences`), and it is harm when `low` is above zero. *What has it cost
so far?* is about the traffic it was given, whatever the weather was: `bound` is the upper end for the running mean of the conditional
means (the same paper, for means that vary in time), which rows settle quickly. That a model is better on days in general was
shown at the gate, over many days; the rollout watches for what only shows online. What a candidate may cost depends on how much it
answers: it goes on to weight w when w * `bound` is at most the margin, so that the service as a whole loses no more. (`settle="days"` takes the
upper end for days in general instead.)

Errors: shadow and canary have a sequence of their own (blue/green: shadow, and live while the version before is warm). Each claims harm
wrongly with probability at most half of `Rollout.quality_alpha`, and the limits (`limits`) use up the rest of alpha, so over a whole
rollout a candidate that is no worse is rolled back with probability at most alpha. A candidate that has cost more than the margin goes
live with probability at most alpha.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tidemill.core import ids
from tidemill.core.definitions import Rollout, Service
from tidemill.core.instants import format_duration, parse_duration
from tidemill.ledger import tallies
from tidemill.monitoring.losses import row_losses
from tidemill.monitoring.ports import Observation
from tidemill.monitoring.quality import labelled
from tidemill.retraining.limits import Limit, limits
from tidemill.retraining.ports import Decision, Loop
from tidemill.retraining.sequences import Interval, Sums, asymptotic, intraclass, sums, upper_icc
from tidemill.retraining.transitions import Deployed

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
TARGET = 3.0
"""The interval is tightest at so many times `min_labels` independent rows."""
Move = Literal["wait", "advance", "promote", "reject", "rollback", "settle"]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Paired differences of losses (candidate - live) of requests whose label is settled, in the order of the requests."""

    at_us: Ints
    difference: Floats
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a candidate now: the interval, its history by block for the plot, and how many rows of this stage it has."""

    phase: str
    interval: Interval
    in_stage: int
    waiting: int
    mean_live: float | None
    mean_candidate: float | None
    icc: float
    bound: float = inf
    series: tuple[tuple[int, int, float, float, float], ...] = ()
    limits: tuple[Limit, ...] = ()
    error: float = inf

    def as_json(self) -> dict[str, Any]:
        """For evidence and the console; `series` has [until_us, n, mean, low, high]."""
        body = asdict(self) | asdict(self.interval)
        del body["interval"]
        body["series"] = [list(point) for point in self.series]
        body["limits"] = [limit.as_json() for limit in self.limits]
        return body | {"effect": self.interval.mean, "compares": "candidate - live, positive is worse"}


def pair(loop: Loop, service: Service, candidate: Deployed, live_version: int, now_us: int) -> tuple[Pairs, Floats, Floats]:
    """Pair the candidate's settled losses with those of the live model on the same requests; also both losses."""
    rows = loop.log.scores(service.name, from_us=candidate.started_us, until_us=now_us)
    is_candidate = (rows["version"] == candidate.version) & (rows["role"] == candidate.role)
    is_live = rows["version"] == live_version
    live_at = {key: i for i, key in zip(np.flatnonzero(is_live).tolist(), rows["id"][is_live].tolist(), strict=True)}
    mine = np.flatnonzero(is_candidate)
    theirs = np.array([live_at.get(key, -1) for key in rows["id"][mine].tolist()], dtype=np.int64)
    mine, theirs = mine[theirs >= 0], theirs[theirs >= 0]
    order = np.argsort(rows["at_us"][mine], kind="stable")
    mine, theirs = mine[order], theirs[order]
    at, label = (
        rows["at_us"][mine].astype(np.int64),
        labelled(service, loop.labels, rows["id"][mine], from_us=candidate.started_us, at_us=now_us),
    )
    unsettled = np.isnan(label) & (at + service.lead_us + service.label.matures_us > now_us)
    frontier = int(np.argmax(unsettled)) if unsettled.any() else at.size
    use = np.flatnonzero(~np.isnan(label[:frontier]))
    y = label[use]
    losses = [row_losses(service.gate.metric, y, rows["score"][side[use]].astype(np.float64)) for side in (mine, theirs)]
    return Pairs(at[use], losses[0] - losses[1], int(at.size - frontier)), losses[0], losses[1]


def look(loop: Loop, service: Service, candidate: Deployed, live_version: int, now_us: int, gated: tuple[float, int] = (0.0, 0)) -> Look:
    """Compare a candidate with the live version by everything settled at `now_us`. `gated`: correlation at the gate, and its degrees of freedom."""
    pairs, mine, theirs = pair(loop, service, candidate, live_version, now_us)
    block_us = parse_duration(service.gate.block)
    blocks = pairs.at_us // block_us
    icc = upper_icc(gated, intraclass(pairs.difference, blocks), size=_mean_size(blocks))
    series = _series(pairs, block_us, service.rollout, icc)
    current = series[-1][1] if series else Interval(0.0, -inf, inf, 0, 1.0)
    so_far = sums(pairs.difference, blocks)
    return Look(
        phase=candidate.role,
        interval=current,
        in_stage=int((pairs.at_us >= candidate.since_us).sum()),
        waiting=pairs.waiting,
        mean_live=float(theirs.mean()) if theirs.size else None,
        mean_candidate=float(mine.mean()) if mine.size else None,
        icc=icc,
        bound=bound(so_far, service.rollout),
        series=tuple((end, i.n, i.mean, i.low, i.high) for end, i in series),
        limits=limits(service.rollout, *_lived(loop, service, candidate)),
        error=sqrt(so_far.variance * so_far.design_effect(icc) / so_far.n) if so_far.n > 1 else inf,
    )


def _lived(loop: Loop, service: Service, candidate: Deployed) -> tuple[tallies.Counts, Observation | None]:
    """What the servers counted of a candidate in its role, and the newest drift of its inputs."""
    with loop.ledger.read() as db:
        counts = tallies.read(db, candidate.id).get(candidate.role, tallies.Counts())
    if service.rollout.drift is None:
        return counts, None
    seen = loop.metrics.read(service.name, objective="psi:max", version=candidate.version, from_us=candidate.started_us)
    return counts, max((o for o in seen if o.value is not None), key=lambda o: (o.until_us, o.until_us - o.from_us), default=None)


def _mean_size(blocks: Ints) -> float:
    """Rows in the block of an average row."""
    sizes = np.unique(blocks, return_counts=True)[1].astype(np.float64)
    return float(np.square(sizes).sum() / sizes.sum()) if sizes.size else 0.0


def _series(pairs: Pairs, block_us: int, rollout: Rollout, icc: float) -> list[tuple[int, Interval]]:
    blocks = pairs.at_us // block_us
    out: list[tuple[int, Interval]] = []
    so_far = Sums()
    for block in np.unique(blocks):
        d = pairs.difference[blocks == block]
        so_far += Sums(d.size, float(d.sum()), float(np.square(d).sum()), float(d.size) ** 2)
        out.append((int(block + 1) * block_us, interval(so_far, rollout, icc)))
    return out


def interval(so_far: Sums, rollout: Rollout, icc: float) -> Interval:
    """The interval of the mean difference over days in general; each end errs with probability at most half of `quality_alpha` over all looks."""
    return asymptotic(so_far, alpha=rollout.quality_alpha, target=TARGET * rollout.min_labels, icc=icc)


def bound(so_far: Sums, rollout: Rollout) -> float:
    """The upper end of what the candidate has cost a request so far; it errs with probability at most alpha over all looks."""
    return asymptotic(so_far, alpha=2 * rollout.alpha, target=TARGET * rollout.min_labels, icc=0.0).high


def next_weight(rollout: Rollout, candidate: Deployed) -> float:
    """The share of requests that a candidate answers after its next step."""
    if rollout.kind == "thompson" and candidate.role == "shadow":
        return rollout.floor
    return rollout.canary[candidate.stage] if candidate.stage < len(rollout.canary) else 1.0


def verdict(rollout: Rollout, candidate: Deployed, seen: Look, now_us: int) -> tuple[Move, str]:
    """What the state machine does with a candidate, and why. Pure."""
    i = seen.interval
    harm: Move = "reject" if candidate.role == "shadow" else "rollback"
    figures = _figures(i)
    if why := harm_of(rollout, seen):
        return harm, f"{why}: {figures}"
    if candidate.role == "live":
        over = now_us - candidate.since_us >= parse_duration(rollout.warm)
        return ("settle", f"{rollout.warm} without harm: {figures}") if over else ("wait", figures)
    weight = next_weight(rollout, candidate)
    stay = rollout.shadow if candidate.role == "shadow" else rollout.bake
    cost = seen.bound if rollout.settle == "traffic" else i.high
    affordable = cost * weight <= rollout.margin
    enough = seen.in_stage >= rollout.min_labels
    if affordable and enough and now_us - candidate.since_us >= parse_duration(stay):
        said = f"it has cost at most {cost:+.4f}, so at {weight:.0%} no more than the margin of {rollout.margin:g}"
        return "promote" if weight == 1.0 else "advance", f"{said}: {figures}"
    if now_us - candidate.started_us >= parse_duration(rollout.give_up):
        return harm, f"not settled within {format_duration(parse_duration(rollout.give_up))}: {figures}"
    return "wait", figures


def _figures(i: Interval) -> str:
    return f"candidate - live = {i.mean:+.4f} [{i.low:+.4f}, {i.high:+.4f}] over {i.n} labelled requests"


def harm_of(rollout: Rollout, seen: Look) -> str:
    """Why a candidate is taken back now; empty when it is not."""
    broken = next((limit for limit in seen.limits if limit.broken), None)
    if broken is not None:
        return broken.said
    return "shown to be worse" if seen.interval.n >= rollout.min_labels and seen.interval.low > 0 else ""


def decide(
    service: Service, candidate: Deployed, live_version: int, seen: Look, now_us: int, *, actor: str = "reconciler"
) -> Decision | None:
    """The decision that a look leads to, None to wait. Pure. Its id follows from the deployment and its stage.

    `candidate` may be live already, `live_version` then is what it replaced and what is kept warm (blue/green).
    """
    move, reason = verdict(service.rollout, candidate, seen, now_us)
    return None if move == "wait" else decision_of(service, candidate, live_version, seen, move, reason, now_us, actor=actor)


def decision_of(
    service: Service, candidate: Deployed, live_version: int, seen: Look, move: Move, reason: str, now_us: int, *, actor: str = "reconciler"
) -> Decision:
    """A move as a decision with its evidence."""
    watched = candidate.role == "live"
    stage: tuple[Any, ...] = ("watch", candidate.id) if watched else ("rollout", candidate.id, candidate.stage)
    return Decision(
        id=ids.derive("decision", *stage),
        kind="rollback" if move == "rollback" else "rollout",
        service=service.name,
        subject=f"{service.name}/{candidate.version}",
        outcome=move,
        cause={"version": candidate.version, "replaces": live_version, "deployment": candidate.id, "decision": candidate.decision_id},
        evidence=_evidence(service, candidate, seen, reason),
        actor=actor,
        at_us=now_us,
    )


def _evidence(service: Service, candidate: Deployed, seen: Look, reason: str) -> dict[str, Any]:
    evidence = {
        "reason": reason,
        "method": "asymptotic confidence sequence of paired losses",
        **seen.as_json(),
        "alpha": service.rollout.alpha,
    }
    evidence |= {"margin": service.rollout.margin, "metric": service.gate.metric, "stage": candidate.stage, "weight": candidate.weight}
    return evidence | {"next_weight": next_weight(service.rollout, candidate)}

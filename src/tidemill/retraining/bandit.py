"""The rollout of several versions at once, each with a share of the traffic that follows its labelled quality (see `shares`).

A version enters with the floor when its shadow shows nothing against it. After each `bake` all shares are made anew, in one decision that
holds what they follow. Harm takes a version out as in any rollout, by anytime-valid intervals; one that is the best with probability
1 - alpha, and has surely cost no more than the margin, becomes the live one, and the others retire. Where no version gets so far within
`give_up`, the most probable one does, if its cost is settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core import ids
from tidemill.core.definitions import Service
from tidemill.core.instants import parse_duration
from tidemill.retraining.ports import Decision
from tidemill.retraining.rollout import Look, Move, decision_of, harm_of, verdict
from tidemill.retraining.shares import Arm, shares
from tidemill.retraining.transitions import Deployed

Looks = Mapping[str, Look]
"""By the candidate's deployment id."""


def decide(
    service: Service, live: Deployed, candidates: Sequence[Deployed], looks: Looks, now_us: int
) -> tuple[Decision, Deployed | None] | None:
    """The next decision over all candidates, and the one that it is about (None: all of them); None to wait. Pure."""
    rollout, entering = service.rollout, list[Deployed]()
    canaries = [c for c in candidates if c.role == "canary"]
    for candidate in candidates:
        seen = looks[candidate.id]
        move, reason = verdict(rollout, candidate, seen, now_us) if candidate.role == "shadow" else _harmed(service, seen)
        if move == "advance":
            entering.append(candidate)
        elif move != "wait":
            return decision_of(service, candidate, live.version, seen, move, reason, now_us), candidate
    weights, chances = shares({c.id: _arm(looks[c.id]) for c in canaries + entering}, floor=rollout.floor, enough=rollout.min_labels)
    for candidate in canaries:
        move, reason = _settled(service, candidate, looks[candidate.id], chances, now_us)
        if move != "wait":
            return decision_of(service, candidate, live.version, looks[candidate.id], move, reason, now_us), candidate
    due = entering or [c for c in canaries if now_us - c.since_us >= parse_duration(rollout.bake)]
    return (_weighed(service, live, canaries + entering, looks, weights, chances, now_us), None) if due else None


def _arm(seen: Look) -> Arm:
    return Arm(seen.interval.mean, seen.error, seen.interval.n if seen.phase == "canary" else 0)


def _harmed(service: Service, seen: Look) -> tuple[Move, str]:
    why = harm_of(service.rollout, seen)
    return ("rollback", why) if why else ("wait", "")


def _settled(service: Service, candidate: Deployed, seen: Look, chances: Mapping[str, float], now_us: int) -> tuple[Move, str]:
    rollout, chance = service.rollout, chances.get(candidate.id, 0.0)
    affordable = seen.interval.n >= rollout.min_labels and seen.bound <= rollout.margin
    said = f"the best of {len(chances)} with probability {chance:.1%}, and has cost at most {seen.bound:+.4f}"
    if affordable and chance >= 1 - rollout.alpha and now_us - candidate.since_us >= parse_duration(rollout.bake):
        return "promote", said
    if now_us - candidate.started_us < parse_duration(rollout.give_up):
        return "wait", said
    first = chance > 0 and chance == max(chances.values())
    return ("promote" if first and affordable else "rollback"), f"time is over after {rollout.give_up}: {said}"


def _weighed(
    service: Service,
    live: Deployed,
    arms: Sequence[Deployed],
    looks: Looks,
    weights: Mapping[str, float],
    chances: Mapping[str, float],
    now_us: int,
) -> Decision:
    rows: list[dict[str, Any]] = [
        {
            "version": c.version,
            "deployment": c.id,
            "difference": looks[c.id].interval.mean,
            "error": looks[c.id].error,
            "n": _arm(looks[c.id]).n,
            "chance": chances.get(c.id),
            "before": c.weight,
            "weight": weights[c.id],
        }
        for c in arms
    ]
    rows.append({"version": live.version, "deployment": live.id, "chance": chances[""], "before": live.weight, "weight": weights[""]})
    told = ", ".join(f"v{row['version']} {row['weight']:.0%}" for row in rows)
    return Decision(
        id=ids.derive("decision", "weigh", service.name, *sorted(f"{c.id}:{c.stage}" for c in arms)),
        kind="rollout",
        service=service.name,
        subject=service.name,
        outcome="weigh",
        cause={"deployments": [c.id for c in arms], "replaces": live.version},
        evidence={
            "reason": f"shares follow the probability of being the best: {told}",
            "method": "Thompson sampling over normal posteriors of paired losses",
            "floor": service.rollout.floor,
            "metric": service.gate.metric,
            "arms": rows,
        },
        actor="reconciler",
        at_us=now_us,
    )

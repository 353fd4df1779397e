"""Level-triggered reconciliation: look, plan, act, until nothing is left to do.

`observe` reads what is, `plan` says (purely) what is missing, `apply` does it: each action is one transaction of the ledger, guarded by the
state it starts from and named by what it is made from. So a loop that is killed anywhere and started again ends where an
undisturbed one does. No action happens without a recorded cause or decision.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.definitions import Service
from tidemill.core.errors import ConflictError, NotFoundError
from tidemill.ledger import schema
from tidemill.ledger.store import emit, insert_once, to_json, upsert
from tidemill.registry.ports import ModelVersion
from tidemill.retraining import bandit, gate, rollout, transitions, triggers
from tidemill.retraining.decisions import as_decision, record
from tidemill.retraining.ports import Cause, Decision, Loop
from tidemill.retraining.transitions import Deployed

logger = logging.getLogger(__name__)
ActionKind = Literal["cause", "launch", "judge", "deploy", "start", "supersede", "move", "weigh", "alias"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `key` names it: equal keys are the same thing."""

    kind: ActionKind
    key: str
    version: int = 0
    cause: Cause | None = None
    decision: Decision | None = None
    candidate: Deployed | None = None
    candidates: tuple[Deployed, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What is, as far as one service goes. `verdicts`: the newest gate decision by version; `deployed`: versions that ever had a deployment.

    `looks`: what is known of each candidate, by deployment id; of the live version too while what it replaced is `warm`.
    """

    live: Deployed | None
    candidates: tuple[Deployed, ...]
    versions: tuple[ModelVersion, ...]
    verdicts: Mapping[int, Decision]
    deployed: frozenset[int]
    open: tuple[Cause, ...]
    champion: int | None = None
    due: Cause | None = None
    warm: Deployed | None = None
    looks: Mapping[str, rollout.Look] = field(default_factory=dict)


def observe(loop: Loop, service: Service, now_us: int) -> Observed:
    """Read the state of a service: the ledger, and for a candidate the labelled predictions so far."""
    with loop.ledger.read() as db:
        live = transitions.read_live(db, service.name)
        candidates, warm = tuple(transitions.read_candidates(db, service.name)), transitions.read_warm(db, service.name)
        deployed = db.execute(sa.select(schema.deployment.c.version).where(schema.deployment.c.service == service.name)).scalars().all()
        d = schema.decision
        query = sa.select(d).where(d.c.service == service.name, d.c.kind.in_(("gate", "supersede"))).order_by(d.c.at_us, d.c.id)
        verdicts = _verdicts([as_decision(row) for row in db.execute(query).mappings()], live)
    return Observed(
        live=live,
        candidates=candidates,
        versions=tuple(loop.registry.versions(service.name)),
        verdicts=verdicts,
        deployed=frozenset(int(v) for v in deployed),
        open=tuple(p.cause for p in triggers.causes(loop, service.name) if p.open),
        champion=_alias(loop, service),
        due=triggers.due(loop, service, now_us),
        warm=warm,
        looks=_looks(loop, service, (live, warm), candidates, verdicts, now_us),
    )


def _verdicts(found: Sequence[Decision], live: Deployed | None) -> dict[int, Decision]:
    """By version: what holds against the version that is live now, else the newest; being set aside is final."""
    against = live.version if live else None
    newest = {int(d.cause["version"]): d for d in found}
    present = {int(d.cause["version"]): d for d in found if d.kind == "gate" and d.cause.get("champion") == against}
    return newest | present | {int(d.cause["version"]): d for d in found if d.kind == "supersede"}


def _alias(loop: Loop, service: Service) -> int | None:
    try:
        return loop.registry.get(service.name, "champion").version
    except NotFoundError:
        return None


def _looks(
    loop: Loop,
    service: Service,
    serving: tuple[Deployed | None, Deployed | None],
    candidates: Sequence[Deployed],
    verdicts: Mapping[int, Decision],
    now_us: int,
) -> dict[str, rollout.Look]:
    """Every candidate against the live version; the live version against what it replaced while that is warm."""
    live, warm = serving
    if live is None:
        return {}
    pairs = [(c, live.version) for c in candidates] + ([(live, warm.version)] if warm is not None else [])
    found = {}
    for candidate, against in pairs:
        gate_says = verdicts[candidate.version].evidence if candidate.version in verdicts else {}
        measured = (float(gate_says.get("icc", 0.0)), max(0, int(gate_says.get("blocks", 0)) - 1))
        found[candidate.id] = rollout.look(loop, service, candidate, against, now_us, measured)
    return found


def plan(service: Service, seen: Observed, now_us: int) -> list[Action]:
    """What is missing between what is and what should be, most urgent first. Pure."""
    actions = _moves(service, seen, now_us)
    if seen.live and seen.champion != seen.live.version:
        actions.append(Action("alias", f"alias:{seen.live.version}:{seen.live.decision_id}", version=seen.live.version))
    actions += [Action("launch", f"launch:{cause.id}", cause=cause) for cause in seen.open]
    actions += _versions(service, seen, now_us)
    if seen.due and not actions:
        actions.append(Action("cause", seen.due.id, cause=seen.due))
    return actions


def _moves(service: Service, seen: Observed, now_us: int) -> list[Action]:
    """The next step of what is being rolled out, or of what was just switched to."""
    live, warm = seen.live, seen.warm
    if live is None:
        return []
    if service.rollout.kind == "thompson" and seen.candidates:
        found = bandit.decide(service, live, seen.candidates, seen.looks, now_us)
        if found is None:
            return []
        move, about = found
        if about is None:
            arms = {row["deployment"] for row in move.evidence["arms"]}
            return [Action("weigh", move.id, decision=move, candidates=tuple(c for c in seen.candidates if c.id in arms))]
        return [Action("move", move.id, decision=move, candidate=about, version=about.version)]
    watched, against = (seen.candidates[0], live) if seen.candidates else (live, warm)
    if against is None:
        return []
    step = rollout.decide(service, watched, against.version, seen.looks[watched.id], now_us)
    return [Action("move", step.id, decision=step, candidate=watched, version=watched.version)] if step else []


def _versions(service: Service, seen: Observed, now_us: int) -> list[Action]:
    """Judge what is new, start the newest that passed, set aside those it overtook."""
    against = seen.live.version if seen.live else None
    unfinished = {cause.run_id for cause in seen.open}
    fresh = [v for v in seen.versions if v.version not in seen.deployed and v.version > (against or 0) and v.run_id not in unfinished]
    pending: list[Action] = []
    passed: list[Decision] = []
    for version in fresh:
        verdict = seen.verdicts.get(version.version)
        if verdict is None or (verdict.outcome == "promote" and verdict.cause.get("champion") != against):
            pending.append(Action("judge", f"judge:{version.version}:{against}", version=version.version))
        elif verdict.outcome == "promote":
            passed.append(verdict)
    if pending or not passed or seen.warm or len(seen.candidates) >= service.rollout.arms - 1:
        return pending
    newest, *older = sorted(passed, key=lambda d: -int(d.cause["version"]))
    number = int(newest.cause["version"])
    actions = [] if service.rollout.kind == "thompson" else [_superseded(service, v, number, now_us) for v in older]
    return [*actions, Action("start" if seen.live else "deploy", f"start:{newest.id}", version=number, decision=newest)]


def _superseded(service: Service, verdict: Decision, by: int, now_us: int) -> Action:
    version = int(verdict.cause["version"])
    decision = Decision(
        id=ids.derive("decision", "supersede", service.name, version),
        kind="supersede",
        service=service.name,
        subject=f"{service.name}/{version}",
        outcome="reject",
        cause={"version": version, "decision": verdict.id},
        evidence={"reason": f"version {by} is newer and passed the gate as well", "by": by},
        actor="reconciler",
        at_us=now_us,
    )
    return Action("supersede", decision.id, version=version, decision=decision)


def apply(loop: Loop, service: Service, action: Action, now_us: int) -> None:
    """Do one action. Doing it twice is doing it once. Raises `ConflictError` when the state moved on meanwhile: look again."""
    _APPLY[action.kind](loop, service, action, now_us)
    logger.info("loop.acted", extra={"service": service.name, "action": action.kind, "key": action.key})


def reconcile(loop: Loop, service: Service, now_us: int) -> list[Action]:
    """Act until there is nothing left to do now; return what was done, in order."""
    done: dict[str, Action] = {}
    while True:
        seen = observe(loop, service, now_us)
        todo = [a for a in plan(service, seen, now_us) if a.key not in done]
        if not todo:
            _show(loop, service, seen, now_us)
            return list(done.values())
        action = todo[0]
        done[action.key] = action
        try:
            apply(loop, service, action, now_us)
        except ConflictError:
            logger.info("loop.overtaken", extra={"service": service.name, "action": action.kind, "key": action.key})


def _record_cause(loop: Loop, service: Service, action: Action, now_us: int) -> None:
    cause = action.cause
    assert cause is not None
    decision = Decision(
        id=ids.derive("decision", "trigger", cause.id),
        kind="trigger",
        service=service.name,
        subject=service.name,
        outcome="retrain",
        cause={"cause_id": cause.id, "kind": cause.kind},
        evidence=cause.evidence,
        actor=loop.actor,
        at_us=now_us,
    )
    with loop.ledger.write() as db:
        if record(db, decision):
            values = {"id": cause.id, "kind": cause.kind, "service": cause.service, "at_us": cause.at_us, "run_id": cause.run_id}
            insert_once(db, schema.cause, values | {"evidence": to_json(cause.evidence)})
            emit(db, "cause", service.name, {"cause": cause.id, "kind": cause.kind}, at_us=now_us, actor=loop.actor)


def _launch(loop: Loop, _service: Service, action: Action, _now_us: int) -> None:
    assert action.cause is not None
    loop.launch(loop, action.cause)


def _judge(loop: Loop, service: Service, action: Action, _now_us: int) -> None:
    decision = gate.decide(loop, service, action.version)
    with loop.ledger.write() as db:
        if record(db, decision) and decision.outcome == "reject":
            transitions.set_status(db, service.name, action.version, "rejected")


def _begin(loop: Loop, service: Service, action: Action, now_us: int) -> None:
    passed = action.decision
    assert passed is not None
    first = action.kind == "deploy"
    decision = Decision(
        id=ids.derive("decision", "rollout", passed.id),
        kind="rollout",
        service=service.name,
        subject=f"{service.name}/{action.version}",
        outcome="promote" if first else "start",
        cause={"version": action.version, "decision": passed.id, "replaces": None if first else passed.cause.get("champion")},
        evidence={
            "reason": "the first version to pass the gate" if first else "passed the gate",
        },
        actor=loop.actor,
        at_us=now_us,
    )
    with loop.ledger.write() as db:
        if record(db, decision):
            if first:
                transitions.go_live(db, service.name, action.version, decision)
            else:
                transitions.start(db, service.name, action.version, decision)


def _supersede(loop: Loop, service: Service, action: Action, _now_us: int) -> None:
    assert action.decision is not None
    with loop.ledger.write() as db:
        if record(db, action.decision):
            transitions.set_status(db, service.name, action.version, "rejected")


def _apply_move(loop: Loop, service: Service, action: Action, _now_us: int) -> None:
    decision, candidate = action.decision, action.candidate
    assert decision is not None
    assert candidate is not None
    with loop.ledger.write() as db:
        if not record(db, decision):
            return
        if decision.outcome == "advance":
            transitions.advance(db, candidate, float(decision.evidence["next_weight"]), decision)
        elif decision.outcome == "promote":
            kept = "warm" if service.rollout.kind == "blue_green" else "retired"
            transitions.go_live(db, service.name, candidate.version, decision, candidate=candidate, retired=kept)
            transitions.withdraw_candidates(db, service.name, "retired", decision)
        elif candidate.role == "live":
            _end_warm(db, candidate, decision)
        else:
            transitions.withdraw(db, candidate, "rejected" if decision.outcome == "reject" else "rolled_back", decision)


def _end_warm(db: sa.Connection, live: Deployed, decision: Decision) -> None:
    """Let go of what was kept warm, or let it answer again."""
    warm = transitions.read_warm(db, live.service)
    if warm is None:
        raise ConflictError(f"nothing is warm behind {live.service!r} any more; look again, then decide")
    if decision.outcome == "settle":
        transitions.settle(db, warm, decision)
    else:
        transitions.go_live(db, live.service, warm.version, decision, retired="rolled_back")


def _weigh(loop: Loop, _service: Service, action: Action, _now_us: int) -> None:
    decision = action.decision
    assert decision is not None
    with loop.ledger.write() as db:
        if record(db, decision):
            transitions.weigh(db, {row["deployment"]: row["weight"] for row in decision.evidence["arms"]}, action.candidates, decision)


def _set_alias(loop: Loop, service: Service, _action: Action, now_us: int) -> None:
    live = transitions.live(loop.ledger, service.name)
    if live is not None:
        loop.registry.set_alias(service.name, "champion", live.version, decision_id=live.decision_id, at_us=now_us)


def _show(loop: Loop, service: Service, seen: Observed, now_us: int) -> None:
    """Keep the latest look at a candidate where the console finds it; decisions carry their own copy."""
    shown = [d for d in (*seen.candidates, *([seen.live] if seen.live else [])) if d.id in seen.looks]
    if not shown:
        return
    candidate = shown[0]
    body = seen.looks[candidate.id].as_json() | {"version": candidate.version, "role": candidate.role, "weight": candidate.weight}
    body |= {"margin": service.rollout.margin, "next_weight": rollout.next_weight(service.rollout, candidate)}
    with loop.ledger.write(durable=False) as db:
        upsert(db, schema.state, {"name": f"rollout:{service.name}", "value": to_json(body), "at_us": now_us})


_APPLY = {
    "cause": _record_cause,
    "launch": _launch,
    "judge": _judge,
    "deploy": _begin,
    "start": _begin,
    "supersede": _supersede,
    "move": _apply_move,
    "weigh": _weigh,
    "alias": _set_alias,
}

"""Level-triggered reconciliation: look, plan, act, until nothing is left to do.

`observe` reads what is, `plan` says (purely) what is missing, `apply` does it: each action is one transaction of the ledger, guarded by the
state it starts from and named by what it is made from. So a loop that is killed anywhere and started again ends where an
undisturbed one does. No action happens without a recorded cause or decision.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.definitions import Service
from tidemill.core.errors import ConflictError, NotFoundError
from tidemill.ledger import schema
from tidemill.ledger.store import emit, insert_once, to_json, upsert
from tidemill.registry.ports import ModelVersion
from tidemill.retraining import gate, rollout, transitions, triggers
from tidemill.retraining.decisions import as_decision, record
from tidemill.retraining.ports import Cause, Decision, Loop
from tidemill.retraining.transitions import Deployed

logger = logging.getLogger(__name__)
ActionKind = Literal["cause", "launch", "judge", "deploy", "start", "supersede", "move", "alias"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `key` names it: equal keys are the same thing."""

    kind: ActionKind
    key: str
    version: int = 0
    cause: Cause | None = None
    decision: Decision | None = None
    candidate: Deployed | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What is, as far as one service goes. `verdicts`: the newest gate decision by version; `deployed`: versions that ever had a deployment."""

    live: Deployed | None
    candidates: tuple[Deployed, ...]
    versions: tuple[ModelVersion, ...]
    verdicts: Mapping[int, Decision]
    deployed: frozenset[int]
    open: tuple[Cause, ...]
    champion: int | None = None
    due: Cause | None = None
    look: rollout.Look | None = None


def observe(loop: Loop, service: Service, now_us: int) -> Observed:
    """Read the state of a service: the ledger, and for a candidate the labelled predictions so far."""
    with loop.ledger.read() as db:
        live = transitions.read_live(db, service.name)
        candidates = tuple(transitions.read_candidates(db, service.name))
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
        look=_look(loop, service, live, candidates, verdicts, now_us),
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


def _look(
    loop: Loop, service: Service, live: Deployed | None, candidates: Sequence[Deployed], verdicts: Mapping[int, Decision], now_us: int
) -> rollout.Look | None:
    if live is None or not candidates:
        return None
    gate_says = verdicts[candidates[0].version].evidence if candidates[0].version in verdicts else {}
    measured = (float(gate_says.get("icc", 0.0)), max(0, int(gate_says.get("blocks", 0)) - 1))
    return rollout.look(loop, service, candidates[0], live.version, now_us, measured)


def plan(service: Service, seen: Observed, now_us: int) -> list[Action]:
    """What is missing between what is and what should be, most urgent first. Pure."""
    actions: list[Action] = []
    if seen.live and seen.candidates and seen.look:
        candidate = seen.candidates[0]
        if move := rollout.decide(service, candidate, seen.live.version, seen.look, now_us):
            actions.append(Action("move", move.id, decision=move, candidate=candidate, version=candidate.version))
    if seen.live and seen.champion != seen.live.version:
        actions.append(Action("alias", f"alias:{seen.live.version}:{seen.live.decision_id}", version=seen.live.version))
    actions += [Action("launch", f"launch:{cause.id}", cause=cause) for cause in seen.open]
    actions += _versions(service, seen, now_us)
    if seen.due and not actions:
        actions.append(Action("cause", seen.due.id, cause=seen.due))
    return actions


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
    if pending or not passed or seen.candidates:
        return pending
    newest, *older = sorted(passed, key=lambda d: -int(d.cause["version"]))
    number = int(newest.cause["version"])
    actions = [_superseded(service, v, number, now_us) for v in older]
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
            transitions.go_live(db, service.name, candidate.version, decision, candidate=candidate)
        else:
            transitions.withdraw(db, candidate, "rejected" if decision.outcome == "reject" else "rolled_back", decision)


def _set_alias(loop: Loop, service: Service, _action: Action, now_us: int) -> None:
    live = transitions.live(loop.ledger, service.name)
    if live is not None:
        loop.registry.set_alias(service.name, "champion", live.version, decision_id=live.decision_id, at_us=now_us)


def _show(loop: Loop, service: Service, seen: Observed, now_us: int) -> None:
    """Keep the latest look at a candidate where the console finds it; decisions carry their own copy."""
    if seen.look is None:
        return
    candidate = seen.candidates[0]
    body = seen.look.as_json() | {"version": candidate.version, "role": candidate.role, "weight": candidate.weight}
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
    "alias": _set_alias,
}

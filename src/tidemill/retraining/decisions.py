"""Decisions: recorded with their evidence, listed, and taken back by people."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.definitions import Service
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, insert_once, to_json
from tidemill.retraining import transitions
from tidemill.retraining.ports import Decision, Loop

_ORDER = {kind: place for place, kind in enumerate(("audit", "trigger", "gate", "supersede", "rollout", "rollback", "manual"))}
"""The order in which decisions of one instant are made."""


def record(db: sa.Connection, decision: Decision, *, event: str = "decision") -> bool:
    """Write a decision and its event in the caller's transaction; say whether it was new. Once recorded it never changes."""
    values = {name: getattr(decision, name) for name in ("id", "kind", "service", "subject", "outcome", "actor", "reverses", "at_us")}
    new = insert_once(db, schema.decision, values | {"cause": to_json(decision.cause), "evidence": to_json(decision.evidence)})
    if new:
        body = {"decision": decision.id, "kind": decision.kind, "outcome": decision.outcome, "reason": decision.evidence.get("reason", "")}
        emit(db, event, decision.subject, body, at_us=decision.at_us, actor=decision.actor)
    return new


def as_decision(row: Any) -> Decision:
    """A row of the ledger's table, given as a mapping, as a value."""
    return Decision(
        **{k: v for k, v in row.items() if k not in {"cause", "evidence"}},
        cause=from_json(row["cause"]),
        evidence=from_json(row["evidence"]),
    )


def read(ledger: Ledger, decision_id: str) -> Decision:
    """A decision by id. Raises `NotFoundError`."""
    with ledger.read() as db:
        row = db.execute(sa.select(schema.decision).where(schema.decision.c.id == decision_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no decision has the id {decision_id!r}; `tidemill decisions` lists them")
    return as_decision(row)


def listing(ledger: Ledger, *, service: str | None = None, kind: str | None = None, limit: int = 100) -> list[Decision]:
    """Decisions, newest first."""
    table = schema.decision
    query = sa.select(table)
    if service is not None:
        query = query.where(table.c.service == service)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    later = sa.case(_ORDER, value=table.c.kind, else_=len(_ORDER))
    with ledger.read() as db:
        rows = db.execute(query.order_by(table.c.at_us.desc(), later.desc(), table.c.id.desc()).limit(limit)).mappings().all()
    return [as_decision(row) for row in rows]


def promote(loop: Loop, service: Service, version: int, actor: str, *, reason: str = "by hand", reverses: str | None = None) -> Decision:
    """Put a version live now, on a person's word; a rollout under way ends.

    Raises:
        NotFoundError: no such version.
        ConflictError: it is live already.
        RefusedError: its artifact is damaged (`CorruptError`) or could run code; nothing was done.
    """
    wanted = loop.registry.get(service.name, version)
    before = transitions.live(loop.ledger, service.name)
    if before and before.version == wanted.version:
        raise ConflictError(f"version {wanted.version} of {service.name!r} is live already; nothing was done")
    loop.runtime.load(loop.blobs.fetch(wanted.digest))  # what servers would refuse must not become what they are told to serve
    at_us = loop.clock.now_us()
    decision = Decision(
        id=ids.derive("decision", "manual", service.name, wanted.version, before.id if before else None, at_us),
        kind="manual",
        service=service.name,
        subject=f"{service.name}/{wanted.version}",
        outcome="rollback" if reverses else "promote",
        cause={"version": wanted.version, "replaces": before.version if before else None},
        evidence={"reason": reason},
        actor=actor,
        at_us=at_us,
        reverses=reverses,
    )
    with loop.ledger.write() as db:
        if transitions.read_live(db, service.name) != before:
            raise ConflictError(f"what is live behind {service.name!r} changed meanwhile; look again, then decide")
        if record(db, decision):
            transitions.withdraw_candidates(db, service.name, "retired", decision)
            transitions.go_live(db, service.name, wanted.version, decision, retired="rolled_back" if reverses else "retired")
    return decision


def reverse(loop: Loop, decision_id: str, actor: str) -> Decision:
    """Take a decision back: a promotion puts the version before it live again; a rejection or rollback starts the rollout anew.

    Raises:
        NotFoundError: no such decision.
        InvalidError: a decision of its kind cannot be taken back.
        ConflictError: it was overtaken by later ones, or was taken back before.
    """
    decision = read(loop.ledger, decision_id)
    with loop.ledger.read() as db:
        earlier = db.execute(sa.select(schema.decision.c.id).where(schema.decision.c.reverses == decision_id)).scalar()
    if earlier is not None:
        raise ConflictError(f"decision {decision_id} was taken back by {earlier} already")
    service = loop.definitions.service(decision.service)
    version = decision.cause.get("version")
    if version is None or decision.outcome not in {"promote", "rollback", "reject"}:
        raise InvalidError(
            f"decision {decision_id} ({decision.kind}: {decision.outcome}) cannot be taken back; promotions, rejections and rollbacks can"
        )
    if decision.kind == "gate" or decision.outcome != "promote":
        return _give_another_chance(loop, service, int(version), decision, actor)
    previous = decision.cause.get("replaces")
    live = transitions.live(loop.ledger, service.name)
    if previous is None:
        raise InvalidError(f"decision {decision_id} put the first version live; there is none to go back to")
    if live is None or live.version != version:
        raise ConflictError(f"decision {decision_id} was overtaken: {live.version if live else 'nothing'} is live now, not {version}")
    return promote(loop, service, int(previous), actor, reason=f"takes back {decision_id}", reverses=decision_id)


def _give_another_chance(loop: Loop, service: Service, version: int, decision: Decision, actor: str) -> Decision:
    if decision.outcome == "promote":
        raise InvalidError(
            f"decision {decision.id} only let version {version} into its rollout; take the rollout's decision back, or promote another version"
        )
    again = Decision(
        id=ids.derive("decision", "manual", decision.id),
        kind="manual",
        service=service.name,
        subject=decision.subject,
        outcome="retry",
        cause={"version": version, "decision": decision.id},
        evidence={"reason": f"takes back {decision.id}"},
        actor=actor,
        at_us=loop.clock.now_us(),
        reverses=decision.id,
    )
    with loop.ledger.write() as db:
        if transitions.read_candidates(db, service.name):
            raise ConflictError(f"another version of {service.name!r} is being rolled out; wait for its end, then try again")
        if record(db, again):
            transitions.start(db, service.name, version, again)
    return again

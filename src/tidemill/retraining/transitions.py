"""The moves of a deployment, each made inside one transaction of the ledger together with the decision that says so.

    registered → shadow → canary(w1) → canary(w2) → live → (warm →) retired
                    └────────┴────────────┴→ rejected (from shadow) or rolled_back (from canary)

Blue/green goes from shadow to live at once; what was live is warm for a while: loaded and compared, and live again in one move.
A move is guarded by the state it starts from, so a second try changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.errors import ConflictError
from tidemill.ledger import schema, tallies
from tidemill.ledger.store import Ledger, emit, insert_once, upsert
from tidemill.retraining.ports import Decision

_D = schema.deployment
OPEN = ("shadow", "canary")


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment as the ledger has it. `stage`: 0 in shadow, then 1 for the first canary weight; `since_us`: in this stage."""

    id: str
    service: str
    model: str
    version: int
    role: str
    weight: float
    stage: int
    decision_id: str
    since_us: int
    started_us: int
    ended_us: int | None


def live(ledger: Ledger, service: str) -> Deployed | None:
    """What answers now, None when nothing does."""
    with ledger.read() as db:
        return read_live(db, service)


def read_live(db: sa.Connection, service: str) -> Deployed | None:
    """`live`, in the caller's transaction."""
    found = _read(db, service, ("live",))
    return found[0] if found else None


def read_warm(db: sa.Connection, service: str) -> Deployed | None:
    """What was live before and is kept loaded."""
    found = _read(db, service, ("warm",))
    return found[-1] if found else None


def read_candidates(db: sa.Connection, service: str) -> list[Deployed]:
    """Deployments on their way: in shadow or canary, oldest first."""
    return _read(db, service, OPEN)


def _read(db: sa.Connection, service: str, roles: tuple[str, ...]) -> list[Deployed]:
    query = sa.select(_D).where(_D.c.service == service, _D.c.role.in_(roles), _D.c.ended_us.is_(None))
    return [Deployed(**row) for row in db.execute(query.order_by(_D.c.started_us, _D.c.id)).mappings()]


def start(db: sa.Connection, service: str, version: int, decision: Decision) -> None:
    """Begin a rollout: shadow, no traffic."""
    _insert(db, service, version, decision, role="shadow", weight=0.0)
    set_status(db, service, version, "challenger")
    _alias(db, service, "challenger", version, decision)


def advance(db: sa.Connection, candidate: Deployed, weight: float, decision: Decision) -> None:
    """Give a candidate the next share of the traffic; what is live keeps the rest."""
    values = {"role": "canary", "weight": weight, "stage": candidate.stage + 1, "since_us": decision.at_us, "decision_id": decision.id}
    _move(db, candidate, decision, values)
    _share_of_live(db, candidate.service)


def weigh(db: sa.Connection, arms: Mapping[str, float], candidates: Sequence[Deployed], decision: Decision) -> None:
    """Give every candidate its new share at once, by deployment id; what is live keeps the rest."""
    for candidate in candidates:
        advance(db, candidate, arms[candidate.id], decision)


def go_live(
    db: sa.Connection, service: str, version: int, decision: Decision, *, candidate: Deployed | None = None, retired: str = "retired"
) -> None:
    """Make a version what answers; what answered before gets the role `retired`, which may be `warm`. What is warm already answers again, or ends."""
    before, warm = read_live(db, service), read_warm(db, service)
    if before is not None:
        values: dict[str, Any] = {"role": retired, "weight": 0.0}
        values |= {"since_us": decision.at_us} if retired == "warm" else {"ended_us": decision.at_us}
        _move(db, before, decision, values)
        set_status(db, service, before.version, retired)
    if warm is not None and warm.version == version and candidate is None:
        candidate = warm
    elif warm is not None:
        settle(db, warm, decision)
    if candidate is None:
        _insert(db, service, version, decision, role="live", weight=1.0)
    else:
        _move(db, candidate, decision, {"role": "live", "weight": 1.0, "since_us": decision.at_us, "decision_id": decision.id})
    set_status(db, service, version, "champion")
    _alias(db, service, "champion", version, decision)
    _drop_alias(db, service, "challenger", decision)


def settle(db: sa.Connection, warm: Deployed, decision: Decision) -> None:
    """Let go of what was kept warm."""
    _move(db, warm, decision, {"role": "retired", "ended_us": decision.at_us})
    set_status(db, warm.service, warm.version, "retired")


def withdraw(db: sa.Connection, candidate: Deployed, role: str, decision: Decision) -> None:
    """End a rollout without going live; what is live answers everything again. `role`: rejected, rolled_back or retired."""
    _move(db, candidate, decision, {"role": role, "weight": 0.0, "ended_us": decision.at_us, "decision_id": decision.id})
    set_status(db, candidate.service, candidate.version, role)
    _share_of_live(db, candidate.service)
    _drop_alias(db, candidate.service, "challenger", decision)


def withdraw_candidates(db: sa.Connection, service: str, role: str, decision: Decision) -> None:
    """End every rollout under way."""
    for candidate in read_candidates(db, service):
        withdraw(db, candidate, role, decision)


def _insert(db: sa.Connection, service: str, version: int, decision: Decision, *, role: str, weight: float) -> None:
    at_us = decision.at_us
    values: dict[str, Any] = {
        "id": ids.derive("deployment", service, version, decision.id),
        "service": service,
        "model": service,
        "version": version,
    }
    values |= {
        "role": role,
        "weight": weight,
        "stage": 0,
        "decision_id": decision.id,
        "since_us": at_us,
        "started_us": at_us,
        "ended_us": None,
    }
    insert_once(db, _D, values)
    _tell(db, service, version, ("registered", role), weight, decision)


def _move(db: sa.Connection, was: Deployed, decision: Decision, values: dict[str, Any]) -> None:
    same = (_D.c.id == was.id) & (_D.c.role == was.role) & (_D.c.stage == was.stage) & _D.c.ended_us.is_(None)
    if db.execute(_D.update().where(same).values(**values)).rowcount != 1:
        raise ConflictError(f"deployment {was.id} is no longer {was.role} in stage {was.stage}; look again, then decide")
    if "ended_us" in values:
        tallies.forget(db, was.id)
    _tell(db, was.service, was.version, (was.role, values["role"]), values.get("weight", was.weight), decision)


def _tell(db: sa.Connection, service: str, version: int, roles: tuple[str, str], weight: float, decision: Decision) -> None:
    body = {"version": version, "from": roles[0], "to": roles[1], "weight": weight, "decision": decision.id}
    emit(db, "deployment", service, body, at_us=decision.at_us, actor=decision.actor)


def _share_of_live(db: sa.Connection, service: str) -> None:
    """Live answers what no candidate does."""
    weight = 1.0
    for candidate in read_candidates(db, service):
        weight -= candidate.weight
    db.execute(_D.update().where(_D.c.service == service, _D.c.role == "live", _D.c.ended_us.is_(None)).values(weight=weight))


def set_status(db: sa.Connection, name: str, version: int, status: str) -> None:
    """Record what became of a version."""
    table = schema.model_version
    db.execute(table.update().where(table.c.name == name, table.c.version == version).values(status=status))


def _alias(db: sa.Connection, name: str, alias: str, version: int, decision: Decision) -> None:
    """Move an alias as `LedgerRegistry.set_alias` does, in the decision's own transaction."""
    held = schema.model_alias
    before = db.execute(sa.select(held.c.version).where(held.c.name == name, held.c.alias == alias)).scalar()
    upsert(db, held, {"name": name, "alias": alias, "version": version, "decision_id": decision.id, "at_us": decision.at_us})
    edge = {"source": decision.id, "target": f"models:/{name}/{version}", "role": f"alias:{alias}", "at_us": decision.at_us}
    insert_once(db, schema.lineage, edge)
    body = {"alias": alias, "from": before, "to": version, "decision": decision.id}
    emit(db, "model.alias", f"models:/{name}@{alias}", body, at_us=decision.at_us, actor=decision.actor)


def _drop_alias(db: sa.Connection, name: str, alias: str, decision: Decision) -> None:
    held = schema.model_alias
    before = db.execute(sa.select(held.c.version).where(held.c.name == name, held.c.alias == alias)).scalar()
    if before is not None:
        db.execute(held.delete().where(held.c.name == name, held.c.alias == alias))
        body = {"alias": alias, "from": before, "to": None, "decision": decision.id}
        emit(db, "model.alias", f"models:/{name}@{alias}", body, at_us=decision.at_us, actor=decision.actor)

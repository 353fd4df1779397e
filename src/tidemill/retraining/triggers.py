"""When to learn again: the four causes, evaluated from what the ledger has observed.

Level-triggered: `due` looks at the present state and says which trigger holds, if any. One cause is open at a time: as long as a run has
not ended, or its version is being rolled out, nothing new starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.definitions import Service, Trigger
from tidemill.core.instants import DAY_US, format_duration, format_instant
from tidemill.ledger import schema
from tidemill.ledger.store import from_json
from tidemill.monitoring.quality import window
from tidemill.registry.ports import ModelVersion
from tidemill.retraining import transitions
from tidemill.retraining.ports import Cause, CauseKind, Loop

ENOUGH_ROWS = 200
"""Published rows of the label's table that a first model needs."""
ENOUGH_SERVED = 200
"""Served rows below which a drift index is noise (it grows like bins / n without any drift)."""
RETRY_US = DAY_US
"""A failed run is not repeated sooner."""


@dataclass(frozen=True, slots=True)
class Past:
    """A cause as the ledger has it, and how its run is: waiting, running, finished or failed."""

    cause: Cause
    status: str

    @property
    def open(self) -> bool:
        """Whether its run is still to end."""
        return self.status in {"waiting", "running"}


def causes(loop: Loop, service: str) -> list[Past]:
    """All causes of a service with the status of their runs, newest first."""
    c, r = schema.cause, schema.run
    query = sa.select(c, r.c.status).join(r, r.c.cause_id == c.c.id, isouter=True).where(c.c.service == service)
    with loop.ledger.read() as db:
        rows = db.execute(query.order_by(c.c.at_us.desc(), c.c.id)).mappings().all()
    return [
        Past(
            Cause(row["id"], row["kind"], row["service"], row["at_us"], from_json(row["evidence"]), row["run_id"]),
            row["status"] or "waiting",
        )
        for row in rows
    ]


def cause_of(service: str, kind: CauseKind, at_us: int, evidence: Mapping[str, Any]) -> Cause:
    """A cause with the ids that follow from what it is."""
    id_ = ids.derive("cause", service, kind, at_us)
    return Cause(id_, kind, service, at_us, evidence, ids.derive("run", id_))


def due(loop: Loop, service: Service, now_us: int) -> Cause | None:
    """The first of the service's triggers that holds now, as a cause that is not recorded yet; None when there is none or one is open.

    A service of others' models has nothing to train.
    """
    if not service.own_model:
        return None
    past = causes(loop, service.name)
    with loop.ledger.read() as db:
        busy = len(transitions.read_candidates(db, service.name)) >= service.rollout.arms - 1
    if busy or any(p.open for p in past):
        return None
    if past and past[0].status == "failed" and now_us - past[0].cause.at_us < RETRY_US:
        return None
    versions = loop.registry.versions(service.name)
    if not versions:
        return _first(loop, service, now_us)
    last_us = past[0].cause.at_us if past else max(v.at_us for v in versions)
    triggers: Sequence[Trigger] = service.retrain if loop.triggers is None else loop.triggers
    for trigger in triggers:
        if trigger.cooldown_us and now_us - last_us < trigger.cooldown_us:
            continue
        evidence = _EVALUATE[trigger.kind](loop, service, trigger, now_us, versions, last_us)
        if evidence is not None:
            return cause_of(service.name, trigger.kind, now_us, evidence)
    return None


def _first(loop: Loop, service: Service, now_us: int) -> Cause | None:
    rows, newest = _published(loop, service, now_us)
    if rows < ENOUGH_ROWS:
        return None
    return cause_of(service.name, "new_data", now_us, {"reason": "no model yet", "rows": rows, "published_until_us": newest})


def _published(loop: Loop, service: Service, now_us: int) -> tuple[int, int]:
    b = schema.batch
    query = sa.select(sa.func.coalesce(sa.func.sum(b.c.rows), 0), sa.func.coalesce(sa.func.max(b.c.at_us), 0))
    with loop.ledger.read() as db:
        rows, newest = db.execute(
            query.where(b.c.table_name == service.label.table.name, b.c.status == "published", b.c.at_us <= now_us)
        ).one()
    return int(rows), int(newest)


def trained_until(version: ModelVersion) -> int:
    """Up to when a version's training data reached; when it was registered if it does not say."""
    return int(version.meta.get("trained_until_us", version.at_us))


def _drift(
    loop: Loop, service: Service, trigger: Trigger, now_us: int, _versions: Sequence[ModelVersion], _last_us: int
) -> dict[str, Any] | None:
    live = transitions.live(loop.ledger, service.name)
    if live is None:
        return None
    seen = [
        o
        for o in loop.metrics.read(service.name, objective="psi:max", version=live.version, from_us=now_us - trigger.window_us)
        if o.until_us <= now_us
    ]
    newest = max(seen, key=lambda o: (o.until_us, o.until_us - o.from_us), default=None)
    if newest is None or newest.value is None or newest.n < ENOUGH_SERVED or newest.value <= trigger.threshold:
        return None
    reason = f"{newest.body.get('column')} drifted: {newest.value:.3f} over {format_duration(newest.until_us - newest.from_us)}"
    evidence = {"reason": reason, "objective": "psi:max", "value": newest.value, "threshold": trigger.threshold, "version": live.version}
    return evidence | {"from_us": newest.from_us, "until_us": newest.until_us, "n": newest.n, "top": newest.body.get("top", {})}


def _quality(
    loop: Loop, service: Service, trigger: Trigger, now_us: int, _versions: Sequence[ModelVersion], _last_us: int
) -> dict[str, Any] | None:
    live = transitions.live(loop.ledger, service.name)
    at_gate = _loss_at_gate(loop, service, live.version) if live else None
    if live is None or at_gate is None:
        return None
    until = now_us - service.lead_us - service.label.matures_us
    until -= until % DAY_US
    seen = window(service, live.version, metrics=loop.metrics, from_us=until - trigger.window_us, until_us=until)
    if seen is None or seen.low is None or seen.low <= at_gate + trigger.threshold:
        return None
    reason = f"{service.gate.metric} {seen.value:.4f} [{seen.low:.4f}, {seen.high:.4f}], at the gate {at_gate:.4f}"
    evidence = {
        "reason": reason,
        "objective": service.gate.metric,
        "value": seen.value,
        "low": seen.low,
        "high": seen.high,
        "at_gate": at_gate,
    }
    evidence |= {"worse_by": trigger.threshold, "version": live.version, "from_us": seen.from_us, "until_us": seen.until_us}
    return evidence | {"n": seen.n, "covered": seen.covered}


def _loss_at_gate(loop: Loop, service: Service, version: int) -> float | None:
    d = schema.decision
    query = sa.select(d.c.evidence).where(d.c.kind == "gate", d.c.service == service.name, d.c.subject == f"{service.name}/{version}")
    with loop.ledger.read() as db:
        body = from_json(db.execute(query.order_by(d.c.at_us.desc(), d.c.id).limit(1)).scalar())
    return None if body is None or body.get("mean_challenger") is None else float(body["mean_challenger"])


def _new_data(
    loop: Loop, service: Service, trigger: Trigger, now_us: int, versions: Sequence[ModelVersion], last_us: int
) -> dict[str, Any] | None:
    _, newest = _published(loop, service, now_us)
    reached = max(max(trained_until(v) for v in versions), last_us)
    if newest - reached < trigger.every_us:
        return None
    reason = f"{format_duration((newest - reached) // DAY_US * DAY_US or 1)} of data since {format_instant(reached)}"
    return {"reason": reason, "published_until_us": newest, "trained_until_us": reached, "every_us": trigger.every_us}


def _schedule(
    _loop: Loop, _service: Service, trigger: Trigger, now_us: int, _versions: Sequence[ModelVersion], last_us: int
) -> dict[str, Any] | None:
    if now_us - last_us < trigger.every_us:
        return None
    return {"reason": f"the last run was {format_instant(last_us)}", "last_us": last_us, "every_us": trigger.every_us}


_EVALUATE = {"drift": _drift, "quality": _quality, "new_data": _new_data, "schedule": _schedule}

"""What a replay came to: quality, trainings, minutes of compute, promotions and rollbacks of each policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from tidemill.core.definitions import Service
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.monitoring.losses import row_losses
from tidemill.retraining.ports import Loop
from tidemill.training.measure import auc

WEEK_US = 7 * DAY_US
Floats = npt.NDArray[np.float64]


def summarise(
    replay_id: str, service: str, policies: Sequence[Mapping[str, Any]], from_us: int, until_us: int, primary: str
) -> dict[str, Any]:
    """Policies side by side, each as `policy` gives it with its name; the format is what the console's replay page reads."""
    facts = {"id": replay_id, "service": service, "from_us": from_us, "until_us": until_us, "primary": primary}
    return {**facts, "policies": [dict(policy) for policy in policies]}


def policy(loop: Loop, service: Service, from_us: int, until_us: int) -> dict[str, Any]:
    """What one policy served and cost: quality over all and by week, trainings, minutes, promotions, rollbacks and the events."""
    at, score, label = served(loop, service, from_us, until_us)
    loss = row_losses("log_loss", label, score)
    area = auc(label, score)
    weeks = (at - from_us) // WEEK_US
    by_week = [
        {"week_us": int(from_us + week * WEEK_US), "log_loss": float(loss[weeks == week].mean()), "n": int((weeks == week).sum())}
        for week in np.unique(weeks)
    ]
    return {
        "log_loss": float(loss.mean()) if len(loss) else None,
        "auc": area if math.isfinite(area) else None,  # one class only has none
        "n": len(loss),
        "weeks": by_week,
        **_counts(loop.ledger, service.name),
    }


def served(loop: Loop, service: Service, from_us: int, until_us: int) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Times, scores and labels of the answered predictions whose label is known by `until_us`."""
    scores = loop.log.scores(service.name, from_us=from_us, until_us=until_us + 1)
    answered = np.asarray(scores["role"]) != "shadow"
    labels = loop.labels.as_of(service.label.name, until_us, writers=service.label.writers)
    ids = pa.array(np.asarray(scores["id"])[answered], pa.string())
    position = pc.index_in(ids, labels.column("key").combine_chunks())
    known = position.is_valid().to_numpy(zero_copy_only=False)
    value = labels.column("value").take(position.drop_null()).to_numpy()
    at, score = np.asarray(scores["at_us"])[answered][known], np.asarray(scores["score"])[answered][known]
    return at, score.astype(np.float64), value.astype(np.float64)


def _counts(ledger: Ledger, service: str) -> dict[str, Any]:
    run, decision = schema.run, schema.decision
    with ledger.read() as db:
        trainings, seconds = db.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(run.c.wall_s), 0.0)).where(run.c.service == service)
        ).one()
        rows = db.execute(sa.select(decision).where(decision.c.service == service).order_by(decision.c.at_us)).mappings().all()
    outcomes = [(row["kind"], row["outcome"]) for row in rows]
    events = [
        {"at_us": row["at_us"], "kind": row["outcome"], "text": f"{row['kind']}: {row['outcome']} {row['subject']}"}
        for row in rows
        if row["kind"] != "audit"
    ]
    return {
        "trainings": int(trainings),
        "minutes": float(seconds) / 60,
        "promotions": sum(outcome in ("promote", "live") for kind, outcome in outcomes if kind in ("rollout", "promotion", "manual")),
        "rollbacks": sum(outcome == "rollback" for _, outcome in outcomes),
        "events": events[-200:],
    }

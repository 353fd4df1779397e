"""Runs, their steps and their figures; only the metrics that were asked for are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tidemill.api.queries.rows import Page, Record, fetch, one, page
from tidemill.core.errors import NotFoundError
from tidemill.ledger import schema

_R = schema.run.c
_S = schema.step_run.c
_L = schema.metric_last.c
_P = schema.param.c
MAX_NAMES = 200


def listing(
    db: sa.Connection, *, metrics: Sequence[str] = (), status: str = "", service: str = "", offset: int = 0, limit: int = 50
) -> Page:
    """Runs, newest first, with cause, step counts and the last value of the named metrics."""
    columns = [_R.id, _R.pipeline, _R.service, _R.status, _R.started_us, _R.finished_us, _R.wall_s, _R.error, _R.cause_id]
    query = sa.select(*columns, schema.cause.c.kind.label("cause_kind")).join(schema.cause, schema.cause.c.id == _R.cause_id, isouter=True)
    if status:
        query = query.where(_R.status == status)
    if service:
        query = query.where(_R.service == service)
    found = page(db, query.order_by(_R.started_us.desc(), _R.id), offset=offset, limit=limit)
    ids = [item["id"] for item in found.items]
    counts, values = _step_counts(db, ids), last_values(db, ids, metrics)
    for item in found.items:
        item["steps"], item["metrics"] = counts.get(item["id"], {}), values.get(item["id"], {})
    return found


def _step_counts(db: sa.Connection, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    rows = fetch(db, sa.select(_S.run_id, _S.status, sa.func.count().label("n")).where(_S.run_id.in_(ids)).group_by(_S.run_id, _S.status))
    out: dict[str, dict[str, int]] = {}
    for row in rows:
        out.setdefault(row["run_id"], {})[row["status"]] = row["n"]
    return out


def last_values(db: sa.Connection, ids: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The value at the greatest step of each named metric, by run."""
    if not ids or not names:
        return {}
    query = sa.select(_L.run_id, _L.name, _L.value).where(_L.run_id.in_(ids), _L.name.in_(names[:MAX_NAMES]))
    out: dict[str, dict[str, float]] = {}
    for row in fetch(db, query):
        out.setdefault(row["run_id"], {})[row["name"]] = row["value"]
    return out


def one_run(db: sa.Connection, run_id: str) -> Record:
    """A run with cause, steps and parameters. Raises `NotFoundError`."""
    found = one(db, sa.select(schema.run).where(_R.id == run_id))
    if found is None:
        raise NotFoundError(f"no run {run_id!r}; `tidemill run --list` and the page Runs show what there is")
    found["cause"] = one(db, sa.select(schema.cause).where(schema.cause.c.id == found["cause_id"]))
    found["steps"] = fetch(db, sa.select(schema.step_run).where(_S.run_id == run_id).order_by(_S.at_us, _S.node).limit(500))
    found["parameters"] = params(db, run_id)
    return found


def params(db: sa.Connection, run_id: str) -> dict[str, str]:
    """Parameters of a run, the first two hundred by name."""
    return {
        row["name"]: row["value"]
        for row in fetch(db, sa.select(_P.name, _P.value).where(_P.run_id == run_id).order_by(_P.name).limit(MAX_NAMES))
    }


def metric_names(db: sa.Connection, run_id: str) -> list[Record]:
    """A run's metrics {"name", "step", "value"} at their greatest step, the first two hundred by name."""
    return fetch(db, sa.select(_L.name, _L.step, _L.value).where(_L.run_id == run_id).order_by(_L.name).limit(MAX_NAMES))


def compare(db: sa.Connection, ids: Sequence[str]) -> Record:
    """Parameters and metrics of up to eight runs side by side. `differs` marks the rows whose values are not all equal."""
    runs = [one_run(db, run_id) for run_id in list(dict.fromkeys(ids))[:8]]
    names = sorted({m["name"] for run in runs for m in metric_names(db, run["id"])})[:MAX_NAMES]
    values = last_values(db, [run["id"] for run in runs], names)
    return {
        "runs": [{k: run[k] for k in ("id", "pipeline", "status", "started_us", "wall_s", "cause", "code")} for run in runs],
        "params": _side_by_side([{**run["parameters"], **_flat(run["params"])} for run in runs]),
        "metrics": _side_by_side([values.get(run["id"], {}) for run in runs]),
    }


def _flat(params: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in params.items()} if isinstance(params, dict) else {}


def _side_by_side(columns: Sequence[dict[str, Any]]) -> list[Record]:
    out = []
    for name in sorted({name for column in columns for name in column}):
        row = [column.get(name) for column in columns]
        out.append({"name": name, "values": row, "differs": len(set(map(str, row))) > 1})
    return out


def step_before(db: sa.Connection, step: Record) -> Record | None:
    """The run of the same step before this one, None for the first."""
    query = sa.select(schema.step_run).where(_S.step == step["step"], _S.node == step["node"], _S.at_us < step["at_us"])
    return one(db, query.order_by(_S.at_us.desc()))

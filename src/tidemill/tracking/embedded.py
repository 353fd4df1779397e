"""Parameters and metrics in the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tidemill.core.errors import InvalidError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.tracking.ports import RunRow


class LedgerTracker:
    """A `Tracker` in the ledger. A NaN is a null in SQL; it comes back as NaN."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def log(self, run_id: str, values: Sequence[tuple[str, int, float]], *, at_us: int) -> None:
        if values:
            self._ledger.log_metrics(run_id, [(name, step, float(value)) for name, step, value in values], at_us=at_us)

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        self._ledger.log_params(run_id, values)

    def history(self, run_id: str, name: str) -> list[tuple[int, float, int]]:
        metric = schema.metric.c
        query = sa.select(metric.step, metric.value, metric.at_us).where(metric.run_id == run_id, metric.name == name).order_by(metric.step)
        with self._ledger.read() as db:
            return [(int(step), math.nan if value is None else float(value), int(at_us)) for step, value, at_us in db.execute(query)]

    def search(
        self,
        *,
        order_by: str | None = None,
        descending: bool = False,
        metrics: Sequence[str] = (),
        params: Sequence[str] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> list[RunRow]:
        if limit < 0 or offset < 0:
            raise InvalidError("limit and offset must be 0 or more")
        with self._ledger.read() as db:
            rows = _page(db, order_by, descending=descending, limit=limit, offset=offset)
            ids = [row.id for row in rows]
            values = _by_run(db, schema.metric_last, ids, metrics)
            texts = _by_run(db, schema.param, ids, params)
        return [
            RunRow(
                row.id,
                row.pipeline,
                row.status,
                row.cause_id,
                row.started_us,
                row.wall_s,
                {name: math.nan if value is None else float(value) for name, value in values.get(row.id, {}).items()},
                {name: str(value) for name, value in texts.get(row.id, {}).items()},
            )
            for row in rows
        ]


def _page(db: sa.Connection, order_by: str | None, *, descending: bool, limit: int, offset: int) -> list[Any]:
    """Runs newest first, or by a metric's last value with those that lack it (or have NaN) last.

    The ordered part walks the index of last values and stops at the limit, so it does not grow with the number of runs.
    """
    run, last = schema.run.c, schema.metric_last.c
    runs = sa.select(run.id, run.pipeline, run.status, run.cause_id, run.started_us, run.wall_s)
    newest = (run.started_us.desc(), run.id)
    if order_by is None:
        return list(db.execute(runs.order_by(*newest).limit(limit).offset(offset)).all())
    has = (last.name == order_by) & last.value.is_not(None)
    ranked = runs.join_from(schema.metric_last, schema.run, run.id == last.run_id).where(has)
    ordered = ranked.order_by(last.value.desc() if descending else last.value.asc(), *newest)
    found: list[Any] = list(db.execute(ordered.limit(limit).offset(offset)).all())
    if len(found) < limit:
        before = db.execute(sa.select(sa.func.count()).select_from(ranked.subquery())).scalar() or 0
        rest = runs.where(~sa.exists().where(has, last.run_id == run.id)).order_by(*newest)
        found += db.execute(rest.limit(limit - len(found)).offset(max(0, offset - before))).all()
    return found


def _by_run(db: sa.Connection, table: sa.Table, ids: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Named values of the runs in a listing, and no others."""
    out: dict[str, dict[str, Any]] = {}
    if not ids or not names:
        return out
    query = sa.select(table.c.run_id, table.c.name, table.c.value).where(table.c.run_id.in_(ids), table.c.name.in_(names))
    for run_id, name, value in db.execute(query):
        out.setdefault(run_id, {})[name] = value
    return out

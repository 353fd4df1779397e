"""Answer for a prediction: from its id back to the model, the decision, the run, the data and the very source rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tidemill.core.definitions import FeatureView, Service
from tidemill.core.errors import InvalidError, NotFoundError, RefusedError
from tidemill.core.privacy import hide, is_masked
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, from_json
from tidemill.registry.ports import ModelVersion
from tidemill.retraining.graphs import route_of
from tidemill.retraining.ports import Loop
from tidemill.serving.graph.scorer import OWN_VERSION
from tidemill.serving.ports import Prediction

_JSON_COLUMNS = ("cause", "evidence", "params", "graph", "code", "environment", "output", "body", "meta", "metrics")


def why(loop: Loop, prediction_id: str, *, rows: int = 20) -> dict[str, Any]:
    """Everything that led to a prediction.

    Args:
        loop: the platform.
        prediction_id: as the answer carried it.
        rows: at most so many source rows for each feature view.

    Raises:
        NotFoundError: no prediction has this id.
    """
    records = loop.log.find(prediction_id)
    if not records:
        raise NotFoundError(f"no prediction has the id {prediction_id!r}; ids are in the answer's `id` and in `tidemill predict list`")
    answer = records[0]
    service = loop.definitions.service(answer.service)
    others = bool(answer.route) and answer.version == OWN_VERSION
    version = None if others else loop.registry.get(answer.model, answer.version)
    return {
        "prediction": _prediction(answer),
        "shadows": [_prediction(record) for record in records[1:]],
        "model": None if version is None else _model(version),
        "graph": route_of(loop, service, answer),
        "decision": _decision(loop.ledger, answer),
        "run": None if version is None else _run(loop.ledger, version.run_id),
        "snapshots": {} if version is None else dict(version.meta.get("snapshots", {})),
        "features": [feature for view in service.views for feature in _features(loop, view, answer, rows)] + _direct(service, answer),
        "contributions": [] if version is None or answer.route else _contributions(loop, version, answer),
        "label": [_label(row) for row in loop.labels.history(service.label.name, prediction_id)],
    }


def _prediction(record: Prediction) -> dict[str, Any]:
    return {
        "id": record.id, "service": record.service, "model": record.model, "version": record.version, "role": record.role, "at_us": record.at_us,
        "score": record.score, "request": dict(record.request), "latency_us": record.latency_us,
    }  # fmt: skip


def _model(version: ModelVersion) -> dict[str, Any]:
    about = {"uri": version.uri, "digest": version.digest, "status": version.status}
    return about | {"metrics": dict(version.metrics), "trained": _trained(version)}


def _trained(version: ModelVersion) -> dict[str, Any]:
    return {key: version.meta[key] for key in ("trained_from_us", "trained_until_us", "rows", "dataset") if key in version.meta}


def _decision(ledger: Ledger, answer: Prediction) -> dict[str, Any] | None:
    """The newest decision about the version that had been made when it answered."""
    deployment, decision = schema.deployment, schema.decision
    with ledger.read() as db:
        found = db.execute(
            sa.select(decision)
            .where(decision.c.service == answer.service, decision.c.subject == f"{answer.model}/{answer.version}", decision.c.at_us <= answer.at_us)
            .order_by(decision.c.at_us.desc(), decision.c.id)
        ).mappings().first()  # fmt: skip
        if found is None:
            found = db.execute(
                sa.select(decision)
                .join(deployment, deployment.c.decision_id == decision.c.id)
                .where(deployment.c.service == answer.service, deployment.c.version == answer.version)
            ).mappings().first()  # fmt: skip
    return _plain(found)


def _run(ledger: Ledger, run_id: str) -> dict[str, Any] | None:
    with ledger.read() as db:
        run = _plain(db.execute(sa.select(schema.run).where(schema.run.c.id == run_id)).mappings().first())
        if run is not None:
            run["cause"] = _plain(db.execute(sa.select(schema.cause).where(schema.cause.c.id == run["cause_id"])).mappings().first())
            run.pop("graph", None)
    return run


def _plain(row: sa.RowMapping | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {str(key): from_json(value) if key in _JSON_COLUMNS else value for key, value in row.items()}


def _features(loop: Loop, view: FeatureView, answer: Prediction, limit: int) -> list[dict[str, Any]]:
    served = dict(zip(answer.columns, answer.values, strict=True))
    key = {name: answer.request.get(name) for name in view.keys}
    source: Sequence[Mapping[str, Any]] = ()
    if None not in key.values() and not any(map(is_masked, key.values())):
        row = {**key, "at": answer.at_us}
        found = loop.offline.explain(row, view, loop.tables.scan(view.table.name), limit=limit)
        source = [{"use": r.use, "event_us": r.event_us, "known_us": r.known_us, "values": hide(r.values, [view.table])} for r in found]
    return [
        {"name": name, "value": served.get(name), "view": view.name, "key": key, "table": view.table.name, "rows": source}
        for name in view.columns
    ]


def _direct(service: Service, answer: Prediction) -> list[dict[str, Any]]:
    looked_up = {name for view in service.views for name in view.columns}
    made = {feature.name: "on demand" for feature in service.on_demand}
    pairs = zip(answer.columns, answer.values, strict=True)
    return [{"name": name, "value": value, "from": made.get(name, "request"), "rows": []} for name, value in pairs if name not in looked_up]


def _contributions(loop: Loop, version: ModelVersion, answer: Prediction) -> list[dict[str, Any]]:
    """What each feature added to the answer, the largest first and the base last; nothing where the model cannot say or its inputs were masked."""
    if any(map(is_masked, answer.values)):
        return []
    try:
        model = loop.runtime.load(loop.blobs.fetch(version.digest))
        if model.features != tuple(answer.columns):
            return []
        *added, base = model.explain([answer.values])[0].tolist()
    except (InvalidError, NotFoundError, RefusedError):
        return []
    found = [{"name": n, "value": v, "adds": a} for n, v, a in zip(answer.columns, answer.values, added, strict=True)]
    return [*sorted(found, key=lambda one: -abs(one["adds"])), {"name": "base", "value": None, "adds": base}]


def _label(row: Any) -> dict[str, Any]:
    return {"value": row.value, "event_us": row.event_us, "known_us": row.known_us, "writer": row.writer}

"""Services that answer by graphs, over the kit's ledger, blobs and log: models are linear, so answers can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.support.serving_kit import CATEGORIES, LATE, Stack, sigmoid
from tidemill.ledger import schema
from tidemill.ledger.store import insert_once
from tidemill.serving.graph.scorer import GraphScorer
from tidemill.testing.models import write_linear_model

ROW = {"sky__wind": 3.0, "sky__cover": "cloudy", "carrier": "UA", "hour": 17.0, "gust": 6.0}


class GraphStack(Stack):
    """A stack whose service `late` answers by a graph. Models `near`, `far` … are registered by `model`."""

    def __init__(self, home: Path, graph: Any, **changes: Any) -> None:
        home.mkdir(exist_ok=True)
        super().__init__(home, replace(LATE, graph=graph, **changes))

    def model(self, name: str, version: int = 1, *, bias: float = 0.0, alias: str = "champion", meta: Mapping[str, Any] | None = None,
              **weights: float) -> None:  # fmt: skip
        """Register a model of these columns; `weights` by column."""
        folder = self.home / f"{name}-{version}"
        texts = {c: CATEGORIES[c] for c in weights if c in CATEGORIES}
        digest = self.blobs.put(write_linear_model(folder, weights, bias=bias, categories=texts))
        with self.ledger.write() as db:
            row = {"name": name, "version": version, "digest": digest, "run_id": f"run-{name}-{version}", "status": "registered"}
            insert_once(db, schema.model_version, {**row, "metrics": "{}", "meta": json.dumps(meta or {}), "at_us": version})
            db.execute(sa.delete(schema.model_alias).where(schema.model_alias.c.name == name, schema.model_alias.c.alias == alias))
            where = {"name": name, "alias": alias, "version": version, "decision_id": "decision", "at_us": version}
            insert_once(db, schema.model_alias, where)

    def live(self, name: str, version: int) -> None:
        """Make a version live behind another service."""
        with self.ledger.write() as db:
            db.execute(sa.delete(schema.deployment).where(schema.deployment.c.service == name))
            where = {"id": f"{name}-{version}", "service": name, "model": name, "version": version, "role": "live", "weight": 1.0}
            rest = {"stage": 0, "decision_id": "decision", "since_us": version, "started_us": version}
            insert_once(db, schema.deployment, {**where, **rest})

    def ready(self) -> GraphScorer:
        """A scorer with its models."""
        scorer = self.scorer()
        assert isinstance(scorer, GraphScorer)
        scorer.refresh()
        return scorer

    def answers(self, *rows: Mapping[str, Any], ids: list[str] | None = None, scorer: GraphScorer | None = None) -> list[Any]:
        """What rows of all columns are answered."""
        scorer = scorer or self.ready()
        given = [{**ROW, **row} for row in rows]
        inputs = [tuple(row[c] for c in self.service.columns) for row in given]
        names = ids or [f"p{i}" for i in range(len(rows))]
        return scorer.respond(given, inputs, names, [1] * len(rows))


def linear(bias: float, *terms: float) -> float:
    """What a registered model says."""
    return sigmoid(bias + sum(terms))

"""The steps of training that every pipeline uses: a training set, its last part held out, and an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_duration
from tidemill.pipelines.ports import Step, current
from tidemill.training.learners import score
from tidemill.training.measure import encode_for, metrics
from tidemill.training.ports import Model, TrainingSet, TrainingSource
from tidemill.training.rows import split_at


def _training_set(service: str, until: int) -> TrainingSet:
    """Rows of a service's spine up to `until` (us), with features as they were known at each row's time, and labels known by then."""
    context = current()
    source = context.resource(TrainingSource)  # type: ignore[type-abstract]
    return source.frame(service, int(until), tag=context.run_id)


def _training_set_versions(service: str, until: int) -> Mapping[str, Any]:
    source = current().resource(TrainingSource)  # type: ignore[type-abstract]
    return source.versions(service, int(until))


def _holdout(rows: TrainingSet, last: str = "14d") -> dict[str, TrainingSet]:
    """Split off the last `last` (a duration) before the set's `until` as `test`; the rest is `train`. Text categories come from `train` alone."""
    train, test = split_at(rows, rows.until_us - parse_duration(last))
    return {"train": train, "test": test}


def _evaluate(model: Model, rows: TrainingSet, slices: Sequence[str] = ()) -> dict[str, Any]:
    """Log loss, Brier score, AUC and n of `model` on `rows`, and the same for each value of the columns in `slices`."""
    x, y = encode_for(model, rows)
    p = score(model, x)
    out: dict[str, Any] = dict(metrics(y, p))
    context = current()
    for name, value in out.items():
        context.log_metric(name, value, 0)
    if slices:
        out["slices"] = {}
    for column in slices:
        if column not in rows.table.column_names:
            raise InvalidError(f"there is no column {column!r} to slice by; there are {', '.join(rows.table.column_names)}")
        values = rows.table.column(column)
        for value in sorted(pc.unique(values).drop_null().to_pylist(), key=str)[:200]:
            mask = pc.fill_null(pc.equal(values, value), False).to_numpy()
            out["slices"][f"{column}={value}"] = metrics(y[mask], p[mask])
    out["from_us"], out["until_us"] = rows.holdout_us, rows.until_us
    return out


training_set = Step(_training_set, "training_set", versions=_training_set_versions)
holdout = Step(_holdout, "holdout", outputs=("train", "test"))
evaluate = Step(_evaluate, "evaluate")

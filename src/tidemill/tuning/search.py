"""The `tune` step: a search over a fit step's parameters, judged on the last days of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.core import ids
from tidemill.core.errors import InvalidError
from tidemill.pipelines.ports import Step, StepContext, current, using
from tidemill.training.ports import Evaluator, TrainingSet
from tidemill.tuning.ports import Range, Study, Trial, Tuner

OWN = ("fit", "rows", "trials", "start", "fixed", "rows_limit", "valid")


def _tune(
    fit: Any,
    rows: TrainingSet,
    *,
    trials: int = 20,
    start: Sequence[Mapping[str, Any]] = (),
    fixed: Mapping[str, Any] | None = None,
    rows_limit: int | None = None,
    valid: float = 0.2,
    **space: Range,
) -> dict[str, Any]:
    """Search for the parameters of `fit` with the least log loss on the last `valid` share of the rows' days.

    Args:
        fit: a step that takes rows and the parameters of `space`, and returns a model.
        rows: what to search on; validation rows come from its end.
        trials: how many points to try.
        start: points to try first.
        fixed: further arguments of `fit` in every trial, for example fewer trees.
        rows_limit: how many of the newest rows to use at most.
        valid: share of the days that is kept for validation, above 0 and below 1.
        space: a range for each searched parameter.

    Returns:
        The best parameters: those of `space` alone, so that `fit(rows, **best)` takes them.
    """
    _check(space, trials, valid)
    context = current()
    evaluator = context.resource(Evaluator)  # type: ignore[type-abstract]
    tuner = context.resource(Tuner)  # type: ignore[type-abstract]
    if rows_limit is not None and len(rows) > rows_limit:
        rows = replace(rows, table=rows.table.slice(len(rows) - rows_limit))
    before, after = evaluator.split(rows, valid)
    study = tuner.search(
        ids.derive("study", context.key or context.run_id, context.node),
        _objective(fit, (before, after), dict(fixed or {}), context, evaluator),
        space,
        trials=trials,
        seed=context.seed,
        start=tuple(start),
        now_us=context.clock.now_us(),
    )
    _record(study, context)
    return dict(study.best)


def _objective(
    fit: Any, parts: tuple[TrainingSet, TrainingSet], fixed: Mapping[str, Any], context: StepContext, evaluator: Evaluator
) -> Callable[[Mapping[str, Any], Trial], float]:
    """Log loss on the second part of a model fitted on the first."""
    function = fit.function if isinstance(fit, Step) else fit

    def objective(params: Mapping[str, Any], _trial: Trial) -> float:
        with using(replace(context, log_metric=_silent)):
            model = function(parts[0], **{**fixed, **params})
            return float(evaluator.measure(model, parts[1])["log_loss"])

    return objective


def _silent(_name: str, _value: float, _step: int = 0) -> None:
    """What a fit logs within a search is not the run's."""


def _check(space: Mapping[str, Any], trials: int, valid: float) -> None:
    if not space:
        raise InvalidError("tune() has nothing to search; name ranges, for example leaves=tidemill.integer(7, 127)")
    if odd := [name for name, value in space.items() if not isinstance(value, Range)]:
        raise InvalidError(f"tune({odd[0]}=…) must be a range; write integer, real, log or choice, or give it in fixed={{…}}")
    if trials < 1 or not 0 < valid < 1:
        raise InvalidError("tune() needs trials of at least 1 and valid between 0 and 1")


def _record(study: Study, context: StepContext) -> None:
    """The trials become metrics of the run and, where there is a ledger, its trial rows."""
    from tidemill.ledger import schema
    from tidemill.ledger.store import Ledger, insert_once, to_json

    for trial in study.trials:
        if trial.value is not None:
            context.log_metric("trial_value", trial.value, trial.number)
    context.log_metric("best_value", study.value, 0)
    ledger = context.resources.get(Ledger)
    if ledger is None:
        return
    at_us = context.clock.now_us()
    with ledger.write(durable=False) as db:
        for trial in study.trials:
            row = {"params": to_json(trial.params), "value": trial.value, "state": trial.state, "at_us": at_us}
            insert_once(db, schema.trial, {"study": study.id, "number": trial.number, **row})


def _searched(args: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a search's outputs: those of its space."""
    return tuple(name for name in args if name not in OWN)


tune = Step(_tune, "tune", outputs=_searched)

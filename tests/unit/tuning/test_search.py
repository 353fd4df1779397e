"""A whole pipeline: training set, holdout, search, fit, evaluation, registration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.pipelines import pipeline, step
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.pipelines.ports import current
from tidemill.registry import ModelVersionCodec, register
from tidemill.registry.embedded import LedgerRegistry
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.training import (
    ModelCodec,
    ModelEvaluator,
    TrainingSetCodec,
    deterministic,
    encode,
    evaluate,
    holdout,
    lightgbm_model,
    read_model,
    training_set,
)
from tidemill.training.ports import Evaluator, Model, TrainingSet, TrainingSource
from tidemill.tuning import choice, integer, log, real, tune
from tidemill.tuning.embedded import OptunaTuner
from tidemill.tuning.ports import Tuner
from tidemill.versioning.embedded import FileBlobStore
from tidemill.versioning.ports import BlobStore


class Source:
    """A `TrainingSource` with 20 days of rows."""

    def __init__(self) -> None:
        self.snapshot = 1
        self.frames = 0

    def versions(self, service: str, until_us: int) -> Mapping[str, Any]:
        return {"tables": {"landings": self.snapshot}}

    def frame(self, service: str, until_us: int, *, tag: str = "") -> TrainingSet:
        self.frames += 1
        rng = np.random.default_rng(0)
        x = rng.normal(size=(800, 2))
        at = pa.array(np.sort(rng.integers(0, 20 * DAY_US, 800))).cast(pa.timestamp("us", "UTC"))
        label = (x[:, 0] + rng.normal(size=800) > 0).astype(float)
        table = pa.table({"id": [str(i) for i in range(800)], "at": at, "a": x[:, 0], "b": x[:, 1], "label": label})
        return TrainingSet(service, table, ("a", "b"), {}, until_us, {"landings": self.snapshot}, meta={"views": {"form": "sha256:v"}})


@step
def fit(rows: TrainingSet, leaves: int = 7, rate: float = 0.1, trees: int = 10) -> Model:
    x, y = encode(rows)
    params = {"objective": "binary", "num_leaves": leaves, "learning_rate": rate}
    current().log_metric("fits", 1.0, 0)
    return lightgbm_model(lgb.train({**params, **deterministic()}, lgb.Dataset(x, y), num_boost_round=trees), rows, params)


@pipeline
def train(until: int, trials: int = 3) -> ModelVersion:
    parts = holdout(training_set("delay", until), last="5d")
    best = tune(
        fit,
        parts["train"],
        leaves=integer(3, 15),
        rate=log(0.05, 0.5),
        trials=trials,
        start=[{"leaves": 5, "rate": 0.1}],
        fixed={"trees": 5},
    )
    model = fit(parts["train"], **best)
    found: ModelVersion = register(model, evaluate(model, parts["test"]))
    return found


class Stack:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        self.blobs = FileBlobStore(folder / "blobs")
        self.registry = LedgerRegistry(self.ledger, self.blobs)
        self.source = Source()
        resources = {
            TrainingSource: self.source,
            Evaluator: ModelEvaluator(),
            Tuner: OptunaTuner(folder / "studies.db"),
            ModelRegistry: self.registry,
            BlobStore: self.blobs,
            Ledger: self.ledger,
        }
        codecs = (*default_codecs(), TrainingSetCodec(), ModelCodec(), ModelVersionCodec(self.registry))
        self.executor = LocalExecutor(self.ledger, self.blobs, codecs, ReplayClock(99), resources)

    def run(self, run_id: str, **params: Any) -> Any:
        result = self.executor.run(train.graph(until=20 * DAY_US, **params), run_id=run_id, cause_id="cause-1", service="delay")
        assert result.status == "finished", result.error
        return result

    def rows(self, table: sa.Table) -> list[Any]:
        with self.ledger.read() as db:
            return list(db.execute(sa.select(table)))


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def test_a_pipeline_ends_in_a_model_version_that_says_where_it_comes_from(stack: Stack) -> None:
    result = stack.run("run-1")
    version = result.output
    assert (version.name, version.version, version.run_id, version.at_us) == ("delay", 1, "run-1", 99)
    assert result.ran == 6
    meta = version.meta
    assert meta["snapshots"] == {"landings": 1}
    assert meta["views"] == {"form": "sha256:v"}
    assert meta["holdout_us"] == 15 * DAY_US
    assert meta["trained_until_us"] == 20 * DAY_US
    assert 0 <= meta["trained_from_us"] < meta["trained_to_us"] < 15 * DAY_US
    assert meta["signature"] == {"inputs": ["a", "b"], "categorical": []}
    assert set(version.metrics) == {"log_loss", "brier", "auc", "n"}
    assert read_model(stack.blobs.fetch(version.digest)).features == ("a", "b")
    edges = {(row.source, row.target, row.role) for row in stack.rows(schema.lineage)}
    assert {
        (meta["dataset"], "models:/delay/1", "trained_on"),
        ("landings@1", meta["dataset"], "read"),
        ("run-1", "models:/delay/1", "registered"),
        (version.digest, "models:/delay/1", "packaged"),
    } <= edges


def test_trials_and_metrics_are_in_the_ledger_and_fits_of_trials_log_nothing(stack: Stack) -> None:
    stack.run("run-1")
    trials = stack.rows(schema.trial)
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert trials[0].params == '{"leaves":5,"rate":0.1}'
    metrics = {(row.name, row.step) for row in stack.rows(schema.metric)}
    assert {("trial_value", 0), ("trial_value", 2), ("best_value", 0), ("log_loss", 0), ("auc", 0)} <= metrics
    fits = [row for row in stack.rows(schema.metric) if row.name == "fits"]
    assert len(fits) == 1


def test_the_second_run_is_cached_and_has_the_metrics_too(stack: Stack) -> None:
    first = stack.run("run-1").output
    again = stack.run("run-2")
    assert (again.ran, again.cached, again.output) == (0, 6, first)
    assert stack.source.frames == 1
    of_run = [{(m.name, m.step, m.value) for m in stack.rows(schema.metric) if m.run_id == run} for run in ("run-1", "run-2")]
    assert of_run[0] == of_run[1]


def test_a_new_snapshot_with_equal_rows_is_cut_off_early(stack: Stack) -> None:
    stack.run("run-1")
    stack.source.snapshot = 2
    plans = {plan.node: plan for plan in stack.executor.plan(train.graph(until=20 * DAY_US))}
    assert plans["training_set"].because == ("tables landings: 1 → 2",)
    assert plans["holdout"].state == "run"  # it may have to
    result = stack.run("run-2")
    assert (result.ran, result.cached) == (1, 5)


def test_more_trials_only_rerun_what_depends_on_them(stack: Stack) -> None:
    stack.run("run-1")
    plans = {plan.node: plan for plan in stack.executor.plan(train.graph(until=20 * DAY_US, trials=4))}
    assert {node for node, plan in plans.items() if plan.state == "run"} == {"tune", "fit", "register", "evaluate"}
    assert plans["tune"].because == ("parameter trials 3 → 4",)
    assert plans["fit"].because == ("input leaves: 'tune' runs first and may change it", "input rate: 'tune' runs first and may change it")


def test_bad_searches_say_what_to_do() -> None:
    with pytest.raises(InvalidError, match="write the lower end first"):
        integer(5, 3)
    with pytest.raises(InvalidError, match="use real"):
        log(0, 1)
    with pytest.raises(InvalidError, match="at least one value"):
        choice()
    assert real(0, 1).kind == "real"

    @pipeline
    def typo(until: int) -> None:
        parts = holdout(training_set("delay", until), last="5d")
        fit(parts["train"], leafs=3)

    with pytest.raises(InvalidError, match=r"step 'fit'.*leafs.*did you mean 'leaves'"):
        typo.graph(until=1)

    @pipeline
    def item(until: int) -> None:
        fit(holdout(training_set("delay", until))["trian"])

    with pytest.raises(InvalidError, match="'holdout' has no item 'trian'; it has train, test"):
        item.graph(until=1)

    @pipeline
    def branch(until: int) -> None:
        if training_set("delay", until):
            holdout(training_set("delay", until))

    with pytest.raises(InvalidError, match="decide inside of a step"):
        branch.graph(until=1)

    @pipeline
    def odd(until: int) -> None:
        fit(object())

    with pytest.raises(InvalidError, match="argument 'rows' of step 'fit' is a object"):
        odd.graph(until=1)
    with pytest.raises(InvalidError, match=r"pipeline 'train'.*did you mean 'until'"):
        train.graph(untli=1)


def test_a_search_without_ranges_fails_with_advice(stack: Stack) -> None:
    @pipeline
    def empty(until: int) -> Any:
        return tune(fit, training_set("delay", until), trials=2)

    result = stack.executor.run(empty.graph(until=20 * DAY_US), run_id="r", cause_id="c")
    assert "name ranges" in result.error


def test_register_takes_only_kept_models(stack: Stack) -> None:
    @step
    def both(rows: TrainingSet) -> Any:
        return register(fit(rows))

    @pipeline
    def wrong(until: int) -> Any:
        return both(training_set("delay", until))

    result = stack.executor.run(wrong.graph(until=20 * DAY_US), run_id="r", cause_id="c")
    assert "pass the model that a fit step returned" in result.error


def test_instants_may_be_written(stack: Stack) -> None:
    from tidemill.core.instants import Instant

    @pipeline
    def written(until: Instant) -> Any:
        return training_set("delay", until)

    assert written.graph(until="1970-01-21").params == {"until": 20 * DAY_US}

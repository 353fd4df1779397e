"""Encoding, splitting, measuring and packing."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pytest
import yaml

from tidemill.core import digests
from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.instants import DAY_US
from tidemill.pipelines.ports import StepContext, using
from tidemill.training import (
    ModelCodec,
    ModelEvaluator,
    TrainingSetCodec,
    deterministic,
    encode,
    evaluate,
    holdout,
    lightgbm_model,
    pack_model,
    read_model,
    score,
)
from tidemill.training.measure import encode_for, metrics
from tidemill.training.ports import Model, TrainingSet
from tidemill.training.rows import split_at, times_us
from tidemill.versioning.embedded import FileBlobStore
from tidemill.versioning.ports import BlobStore


def fitted(rows: TrainingSet, **params: Any) -> Model:
    x, y = encode(rows)
    given = {"objective": "binary", "num_leaves": 7, **params}
    return lightgbm_model(lgb.train({**given, **deterministic()}, lgb.Dataset(x, y), num_boost_round=20), rows, given)


@pytest.fixture(scope="module")
def model(rows: TrainingSet) -> Model:
    return fitted(rows)


def test_a_step_fits_on_its_cores_and_the_model_is_the_same(rows: TrainingSet) -> None:
    x, y = encode(rows)

    def fit(cores: int) -> tuple[int, Model]:
        with using(StepContext("r", "fit", 0, ReplayClock(0), cores=cores)):
            params = {"objective": "binary", "num_leaves": 7, **deterministic()}
            return params["num_threads"], lightgbm_model(lgb.train(params, lgb.Dataset(x, y), num_boost_round=20), rows)

    (one, alone), (three, shared) = fit(1), fit(3)
    assert (one, three) == (1, 3)
    assert alone.native == shared.native


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return FileBlobStore(tmp_path / "blobs")


def set_of(**columns: Any) -> TrainingSet:
    n = len(next(iter(columns.values())))
    at = pa.array([i * DAY_US for i in range(n)]).cast(pa.timestamp("us", "UTC"))
    table = pa.table({"id": [str(i) for i in range(n)], "at": at, **columns, "label": [float(i % 2) for i in range(n)]})
    texts = {
        k: tuple(sorted({v for v in c.to_pylist() if v}))
        for k, c in zip(columns, table.columns[2:-1], strict=True)
        if pa.types.is_string(c.type)
    }
    return TrainingSet("s", table, tuple(columns), texts, n * DAY_US)


def test_encode_codes_texts_and_keeps_numbers() -> None:
    rows = set_of(t=["b", None, "a"], i=pa.array([1, None, 3]), f=pa.array([0.1, None, math.inf]), b=pa.array([True, None, False]))
    x, y = encode(replace(rows, categories={"t": ("a",)}))
    expected = [[-1, 1, 0.1, 1], [-1, math.nan, math.nan, math.nan], [0, 3, math.inf, 0]]
    np.testing.assert_array_equal(x, np.array(expected))
    assert x.dtype == np.float64
    assert y.tolist() == [0, 1, 0]
    day = set_of(t=pa.array([0, 1], pa.timestamp("s", "UTC")))
    assert encode(day)[0].tolist() == [[0.0], [1_000_000.0]]
    with pytest.raises(InvalidError, match="'t' is list"):
        encode(set_of(t=[[1], [2]]))


def test_holdout_cuts_in_time_and_takes_categories_from_the_train_part() -> None:
    rows = set_of(t=["a", "b", "c", "d"])
    parts = holdout(rows, last="2d")
    assert parts["train"].table.column("id").to_pylist() == ["0", "1"]
    assert parts["test"].table.column("id").to_pylist() == ["2", "3"]
    assert parts["train"].categories == parts["test"].categories == {"t": ("a", "b")}
    assert parts["train"].holdout_us == parts["test"].holdout_us == 2 * DAY_US
    assert encode(parts["test"])[0].tolist() == [[-1.0], [-1.0]]
    with pytest.raises(InvalidError, match="leaves one part empty: the rows cover 1970-01-01T00:00:00Z to 1970-01-04T00:00:00Z"):
        holdout(rows, last="9d")


def test_the_evaluator_splits_whole_days(rows: TrainingSet) -> None:
    before, after = ModelEvaluator().split(rows, 0.2)
    assert times_us(before)[-1] < times_us(after)[0]
    assert before.holdout_us is not None
    assert before.holdout_us % DAY_US == 0
    assert 0.1 < len(after) / len(rows) < 0.35


def test_metrics_equal_their_definitions() -> None:
    y, p = np.array([0, 0, 1, 1, 1.0]), np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    found = metrics(y, p)
    assert found["brier"] == pytest.approx(np.mean((y - p) ** 2))
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(np.where(y == 1, p, 1 - p))))
    pairs = [(a > b) + (a == b) / 2 for a in p[y == 1] for b in p[y == 0]]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    assert found["n"] == 5
    assert math.isnan(metrics(np.ones(2), np.array([0.1, 0.2]))["auc"])
    assert math.isfinite(metrics(np.ones(1), np.zeros(1))["log_loss"])
    with pytest.raises(InvalidError, match="NaN"):
        metrics(np.ones(1), np.array([math.nan]))


def test_equal_rows_give_equal_models_and_packages(rows: TrainingSet, model: Model, tmp_path: Path) -> None:
    again = fitted(replace(rows, table=pa.concat_tables([rows.table.slice(0, 700), rows.table.slice(700)])))
    assert again.native == model.native
    trees = []
    for i, one in enumerate((model, again)):
        folder = tmp_path / str(i)
        folder.mkdir()
        pack_model(one, folder)
        trees.append(digests.tree(folder))
    assert trees[0] == trees[1]


def test_a_package_reads_back_and_scores_the_same(rows: TrainingSet, model: Model, tmp_path: Path) -> None:
    facts = pack_model(model, tmp_path)
    assert facts["onnx_difference"] < 1e-12
    back = read_model(tmp_path)
    assert (back.flavor, back.features, back.categories, back.params) == (model.flavor, model.features, model.categories, model.params)
    x, _y = encode(rows)
    np.testing.assert_array_equal(score(back, x), score(model, x))
    document = yaml.safe_load((tmp_path / "MLmodel").read_text())
    assert set(document["flavors"]) == {"python_function", "lightgbm", "onnx"}
    assert document["flavors"]["python_function"]["loader_module"] == "mlflow.lightgbm"
    assert {file.name for file in tmp_path.iterdir()} == {
        "MLmodel", "model.txt", "model.onnx", "tidemill.json", "input_example.json", "requirements.txt", "conda.yaml", "python_env.yaml",
    }  # fmt: skip
    (tmp_path / "tidemill.json").write_text("{}")
    with pytest.raises(InvalidError, match="no model directory"):
        read_model(tmp_path)


def test_a_model_that_onnx_answers_differently_is_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.training import boosted

    other = fitted(make_other())
    monkeypatch.setattr(boosted, "to_onnx", lambda _booster: to_onnx_of(other))
    with pytest.raises(RefusedError, match="differ"):
        pack_model(model, tmp_path)


def make_other() -> TrainingSet:
    rng = np.random.default_rng(5)
    columns = {name: rng.normal(size=200) for name in "abcd"}
    return set_of(**{name: pa.array(values) for name, values in columns.items()})


def to_onnx_of(model: Model) -> bytes:
    from tidemill.training.boosted import load_lightgbm
    from tidemill.training.trees import to_onnx

    return to_onnx(load_lightgbm(model.native))


def test_training_sets_keep_content_not_provenance(rows: TrainingSet, blobs: BlobStore) -> None:
    codec = TrainingSetCodec()
    kept = codec.store(rows, blobs)
    back = codec.load(kept, blobs)
    assert back.table.equals(rows.table)
    assert (back.features, back.categories, back.until_us, back.snapshots) == (
        rows.features,
        rows.categories,
        rows.until_us,
        rows.snapshots,
    )
    assert codec.store(back, blobs)["digest"] == kept["digest"]
    assert codec.store(replace(rows, snapshots={"landings": 8}, meta={"x": 1}), blobs)["digest"] == kept["digest"]
    train, _test = split_at(rows, 10 * DAY_US)
    assert codec.store(train, blobs)["digest"] != kept["digest"]
    fresh = replace(train, table=pa.Table.from_pydict(train.table.to_pydict(), schema=train.table.schema))
    assert codec.store(fresh, blobs)["digest"] == codec.store(train, blobs)["digest"]


def test_models_are_kept_as_their_package(model: Model, blobs: BlobStore) -> None:
    codec = ModelCodec()
    kept = codec.store(model, blobs)
    assert codec.handles(model)
    assert (blobs.fetch(kept["digest"]) / "MLmodel").is_file()
    back = codec.load(kept, blobs)
    assert back.native == model.native
    assert back.meta["snapshots"] == {"landings": 7}
    assert back.meta == model.meta, "a step that was killed and goes on must not get another model than one that was not"
    assert codec.store(back, blobs)["digest"] == kept["digest"]
    assert codec.store(replace(model, meta={**model.meta, "snapshots": {"landings": 9}}), blobs)["digest"] == kept["digest"]


def test_a_model_reads_rows_by_name(rows: TrainingSet, model: Model) -> None:
    shuffled = replace(rows, features=tuple(reversed(rows.features)), categories={"carrier": ("UA",)})
    np.testing.assert_array_equal(encode_for(model, shuffled)[0], encode(rows)[0])
    with pytest.raises(InvalidError, match="lack b"):
        encode_for(model, replace(rows, table=rows.table.drop_columns(["b"])))


def test_a_booster_of_other_columns_is_refused(rows: TrainingSet) -> None:
    booster = lgb.train({**deterministic(), "objective": "binary"}, lgb.Dataset(*encode(make_other())), num_boost_round=2)
    with pytest.raises(InvalidError, match="4 columns, the training set has 3"):
        lightgbm_model(booster, replace(rows, features=rows.features[:3]))


def test_evaluate_measures_and_slices(rows: TrainingSet, model: Model) -> None:
    logged: list[str] = []
    context = StepContext("r", "evaluate", 0, ReplayClock(0), log_metric=lambda name, _value, _step: logged.append(name))
    with using(context):
        found = evaluate(model, rows, slices=["carrier"])
    assert logged == ["log_loss", "brier", "auc", "n"]
    assert {key: found[key] for key in logged} == ModelEvaluator().measure(model, rows)
    assert set(found["slices"]) == {"carrier=AA", "carrier=B6", "carrier=UA"}
    assert sum(part["n"] for part in found["slices"].values()) == len(rows)
    with using(context), pytest.raises(InvalidError, match="no column 'carier'"):
        evaluate(model, rows, slices=["carier"])

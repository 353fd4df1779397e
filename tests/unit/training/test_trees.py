"""ONNX models answer what LightGBM answers, to the last bits, wherever the inputs lie."""

from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from tidemill.core.errors import InvalidError
from tidemill.training.learners import deterministic
from tidemill.training.trees import to_onnx

N = 2000


def data(seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 6))
    x[:, 0] = np.floor(x[:, 0] * 3)
    x[:, 5] = rng.integers(0, 90, N)
    y = (x[:, 1] + np.sin(x[:, 5] ** 2) + rng.normal(size=N) > 0).astype(float)
    x[rng.random(x.shape) < 0.05] = np.nan
    x[:, 3] = np.nan_to_num(x[:, 3])
    return x, y


def hard(booster: Any, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inputs on and beside thresholds, zero, NaN where none was seen, infinities, unknown categories."""
    splits: list[tuple[int, float]] = []
    todo = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while todo:
        node = todo.pop()
        if "threshold" in node:
            todo += [node["left_child"], node["right_child"]]
            splits += [(node["split_feature"], node["threshold"])] if node["decision_type"] == "<=" else []
    out = x.copy()
    for i, (feature, threshold) in enumerate((splits * N)[:N]):
        out[i, feature] = (threshold, np.nextafter(threshold, np.inf), np.nextafter(threshold, -np.inf))[i % 3]
    rng = np.random.default_rng(1)
    odd = rng.random(x.shape) < 0.05
    out[odd] = rng.choice([np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-300, -1e-36], size=int(odd.sum()))
    out[rng.random(N) < 0.2, 5] = -1
    out[rng.random(N) < 0.1, 5] = 1234
    return out


@pytest.mark.parametrize(
    ("params", "categorical"),
    [
        ({"objective": "binary"}, []),
        ({"objective": "binary", "sigmoid": 0.7, "is_unbalance": True}, []),
        ({"objective": "binary"}, [5]),
        ({"objective": "binary", "use_missing": False}, []),
        ({"objective": "regression"}, [5]),
        ({"objective": "poisson"}, []),
        ({"objective": "cross_entropy"}, []),
        ({"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}, []),
        ({"objective": "binary", "boosting": "dart"}, []),
        ({"objective": "regression", "linear_tree": False, "num_leaves": 2}, []),
    ],
)
def test_scores_are_equal(params: dict[str, Any], categorical: list[int]) -> None:
    x, y = data()
    booster = lgb.train({**deterministic(3), **params}, lgb.Dataset(x, y, categorical_feature=categorical), num_boost_round=30)
    session = onnxruntime.InferenceSession(to_onnx(booster))
    for rows in (x, hard(booster, x), x[:1]):
        scores = session.run(None, {"input": rows})[0]
        assert scores.shape == (len(rows), 1)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores[:, 0], booster.predict(rows), rtol=1e-12, atol=1e-13)


def test_a_split_that_parts_missing_values_from_all_others_has_no_end() -> None:
    x = np.random.default_rng(0).normal(size=(N, 1))
    x[:300] = np.nan
    booster = lgb.train(
        {**deterministic(), "objective": "regression", "num_leaves": 2}, lgb.Dataset(x, np.isnan(x[:, 0])), num_boost_round=1
    )
    far = np.array([[np.nan], [-np.inf], [0.0], [1e300], [np.nextafter(1e300, np.inf)], [np.inf]])
    scores = onnxruntime.InferenceSession(to_onnx(booster)).run(None, {"input": far})[0][:, 0]
    assert scores.tolist() == np.asarray(booster.predict(far)).tolist()
    assert len(set(scores)) == 2


def test_a_model_without_splits_is_exported() -> None:
    x, y = data()
    booster = lgb.train({**deterministic(), "objective": "binary", "min_data_in_leaf": 5000}, lgb.Dataset(x, y), num_boost_round=3)
    scores = onnxruntime.InferenceSession(to_onnx(booster)).run(None, {"input": x})[0]
    np.testing.assert_allclose(scores[:, 0], booster.predict(x), rtol=1e-12)


def test_equal_models_have_equal_bytes() -> None:
    x, y = data()
    one, two = (lgb.train({**deterministic(), "objective": "binary"}, lgb.Dataset(x, y), num_boost_round=5) for _ in range(2))
    assert to_onnx(one) == to_onnx(two)


def test_what_onnx_cannot_say_is_refused() -> None:
    x, y = data()
    zero = lgb.train({**deterministic(), "objective": "binary", "zero_as_missing": True}, lgb.Dataset(x, y), num_boost_round=2)
    with pytest.raises(InvalidError, match="zero_as_missing"):
        to_onnx(zero)
    many = lgb.train({**deterministic(), "objective": "multiclass", "num_class": 2}, lgb.Dataset(x, y), num_boost_round=2)
    with pytest.raises(InvalidError, match="2 classes"):
        to_onnx(many)
    ranked = lgb.train({**deterministic(), "objective": "lambdarank"}, lgb.Dataset(x, y, group=[N]), num_boost_round=2)
    with pytest.raises(InvalidError, match="lambdarank"):
        to_onnx(ranked)

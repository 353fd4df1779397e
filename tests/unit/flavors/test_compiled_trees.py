"""Compiled trees answer what LightGBM answers, bit by bit; what they cannot take is left to others, and a forged file is refused."""

import re
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from tidemill.core.errors import InvalidError
from tidemill.serving.embedded import OnnxRuntime
from tidemill.training.package import pack_model
from tidemill.training.ports import Model

pytest.importorskip("numba")
from tidemill.adapters.numba import serving
from tidemill.adapters.numba.forest import read_forest
from tidemill.adapters.numba.serving import Trees, compiled

WIDTH = 7
SIZES = (1, 2, 17, 18, 63, 64, 65, 200)


def _data(rows: int = 3_000) -> tuple[Any, Any]:
    """Numbers with gaps, a column without any, two of category codes, one of them with many, and one that is there or not."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, WIDTH))
    x[:, 1][rng.random(rows) < 0.3] = np.nan
    x[:, 2] = np.round(x[:, 2])
    x[:, 4] = rng.integers(-1, 5, rows)
    x[:, 5] = rng.integers(-1, 90, rows)
    x[:, 6] = np.where(rng.random(rows) < 0.4, np.nan, 1.0)
    y = np.isnan(x[:, 6]) + np.nan_to_num(x[:, 1], nan=1.5) + np.sin(3 * x[:, 0]) + (x[:, 4] == 2) + (x[:, 5] % 7 == 3) * x[:, 2]
    return x, y


X, Y = _data()
ODD = X[:200].copy()
ODD[::7, 0] = np.nan
ODD[1::9, 3] = np.inf
ODD[2::9, 3] = -np.inf
ODD[3::9, 6] = np.inf
ODD[4::9, 2] = [float(v) for v in (-1e-35, 1e-35, -1.0000000180025095e-35, 5e-324, -1.1e-35)] * 4 + [1.1e-35, 0.0]
ODD[::5, 4] = 7.0
ODD[1::5, 4] = np.nan
ODD[2::5, 4] = -0.5
ODD[3::5, 5] = 1e300
ODD[4::5, 5] = 64.9


def _trained(objective: str = "binary", *, rounds: int = 30, categorical: bool = True, **more: Any) -> Any:
    target = {
        "binary": Y > 0.5,
        "multiclass": Y > 0.5,
        "xentlambda": Y > 0.5,
        "cross_entropy": 1 / (1 + np.exp(-Y)),
        "poisson": np.exp(Y / 4),
    }.get(objective, Y)
    params = {"objective": objective, "num_leaves": 31, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1, **more}
    columns = [4, 5] if categorical else []
    rows = lightgbm.Dataset(X, np.asarray(target, dtype=float), categorical_feature=columns, params={"verbose": -1})
    return lightgbm.train(params, rows, rounds)


def _trees(booster: Any) -> Trees:
    return Trees(read_forest(booster.model_to_string()))


@pytest.mark.parametrize(
    "booster",
    [
        pytest.param(lambda: _trained(), id="binary"),
        pytest.param(lambda: _trained(sigmoid=2.5), id="steeper"),
        pytest.param(lambda: _trained("cross_entropy"), id="cross entropy"),
        pytest.param(lambda: _trained("regression", num_leaves=64), id="64 leaves"),
        pytest.param(lambda: _trained("poisson", num_leaves=4, max_cat_to_onehot=1), id="logarithmic"),
        pytest.param(lambda: _trained("quantile", alpha=0.9, categorical=False), id="numbers only"),
        pytest.param(lambda: _trained(use_missing=False), id="missing is zero"),
        pytest.param(lambda: _trained(rounds=1, min_data_in_leaf=10_000), id="one leaf"),
    ],
)
def test_answers_are_lightgbm_s_bit_by_bit(booster: Any) -> None:
    model = booster()
    trees = _trees(model)
    for rows in (X, ODD):
        want = model.predict(rows, num_threads=1)
        for size in SIZES:
            np.testing.assert_array_equal(trees.score(rows[:size]), want[:size])


BINARY = _trained(rounds=8)
TREES = _trees(BINARY)


@settings(max_examples=200, deadline=None)
@given(some.arrays(np.float64, st.tuples(st.sampled_from([1, 18, 70]), st.just(WIDTH)), elements=st.floats(width=64)))
def test_whatever_the_numbers_are(x: Any) -> None:
    x[:, 4:6] = np.clip(x[:, 4:6], -1e9, 1e9)  # beyond 32 bits LightGBM's own conversion is undefined
    np.testing.assert_array_equal(TREES.score(x), BINARY.predict(x, num_threads=1))


def test_arrays_of_other_kinds_are_read_as_they_are() -> None:
    want = BINARY.predict(X[:40], num_threads=1)
    np.testing.assert_array_equal(TREES.score(np.asfortranarray(X[:40])), want)
    fixed = X[:40].copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(TREES.score(fixed), want)
    assert len(TREES.score(X[:0])) == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"num_leaves": 80, "min_data_in_leaf": 1}, "leaves; trees of up to 64"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "random forests"),
        ({"objective": "multiclass", "num_class": 2}, "several classes"),
        ({"linear_tree": True, "categorical": False, "objective": "regression"}, "linear leaves"),
        ({"zero_as_missing": True}, "zero means missing"),
        ({"objective": "xentlambda"}, "objective .* cannot be compiled"),
    ],
)
def test_what_cannot_be_compiled_says_so(more: dict[str, Any], reason: str) -> None:
    named = dict(more)
    with pytest.raises(InvalidError, match=reason):
        read_forest(_trained(named.pop("objective", "binary"), rounds=3, **named).model_to_string())


def _forged(field: str, change: Any) -> str:
    text: str = BINARY.model_to_string()
    found = re.search(rf"^{field}=(.*)$", text, re.MULTILINE)
    assert found
    return text[: found.start(1)] + str(change(found[1])) + text[found.end(1) :]


@pytest.mark.parametrize(
    ("field", "change", "reason"),
    [
        ("split_feature", lambda v: re.sub(r"^\d+", "900", v), "column that rows do not have"),
        ("split_feature", lambda v: re.sub(r"^\d+", "-4", v), "column that rows do not have"),
        ("left_child", lambda v: re.sub(r"^-?\d+", "0", v), "not one parent"),
        ("right_child", lambda v: re.sub(r"-?\d+$", "-900", v), "not one parent"),
        ("right_child", lambda v: v.rpartition(" ")[0], "not one parent"),
        ("cat_boundaries", lambda v: re.sub(r"\d+$", "100000", v), "categories that is not there"),
        ("cat_threshold", lambda v: v.rpartition(" ")[0], "categories that is not there"),
        ("threshold", lambda v: re.sub(r"\S+$", "nan", v), "no number"),
    ],
)
def test_a_forged_file_is_refused(field: str, change: Any, reason: str) -> None:
    """The kernels do not look at bounds, so everything that leads somewhere is looked at before."""
    with pytest.raises(InvalidError, match=reason):
        read_forest(_forged(field, change))


def _packed(booster: Any, folder: Path) -> Path:
    folder.mkdir()
    names = tuple(f"c{i}" for i in range(WIDTH))
    pack_model(Model("lightgbm", booster.model_to_string().encode(), names, {}, meta={"example": np.nan_to_num(X[:2]).tolist()}), folder)
    return folder


def test_a_runtime_compiles_what_it_can_and_reads_the_rest_as_ever(tmp_path: Path) -> None:
    runtime = OnnxRuntime(trees=compiled)
    rows = [tuple(row) for row in X[:30].tolist()]
    model = runtime.load(_packed(BINARY, tmp_path / "few"))
    assert model.platform == "lightgbm"
    np.testing.assert_array_equal(model.predict(rows), BINARY.predict(X[:30]))
    large = _trained(rounds=3, num_leaves=100, min_data_in_leaf=1)
    other = runtime.load(_packed(large, tmp_path / "large"))
    assert other.platform == "onnx_onnxv1"
    np.testing.assert_allclose(other.predict(rows), large.predict(X[:30]), rtol=1e-9)


def test_where_the_compiler_fails_others_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serving, "one_by_one", full)
    model = OnnxRuntime(trees=compiled).load(_packed(BINARY, tmp_path / "model"))
    assert model.platform == "onnx_onnxv1"
    assert "No space left on device" in str([vars(record)["reason"] for record in caplog.records if record.message == "trees.not_compiled"])


def test_a_file_of_another_width_or_none_at_all_is_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text(BINARY.model_to_string())
    assert compiled(path, WIDTH) is not None
    assert compiled(path, WIDTH + 1) is None
    for text in ("", "tree\nversion=v4\n", "num_tree_per_iteration=1\nmax_feature_idx=x\n\nTree=0\nleaf_value=1\nend of trees"):
        path.write_text(text)
        assert compiled(path, WIDTH) is None
    path.write_bytes(b"\xff\xfe\x00")
    assert compiled(path, WIDTH) is None

"""What we pack is what the real MLflow loads (skipped without it: pip install mlflow)."""

import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


def test_mlflow_loads_all_flavors(tmp_path: Path) -> None:
    if "mlflow" not in os.environ.get("TIDEMILL_LIVE", ""):
        pytest.importorskip("mlflow")
    import lightgbm as lgb
    import onnxruntime
    import pyarrow as pa

    from tidemill.training import deterministic, encode, lightgbm_model, pack_model, score
    from tidemill.training.ports import TrainingSet

    pyfunc, native, onnx = (import_module(f"mlflow.{name}") for name in ("pyfunc", "lightgbm", "onnx"))
    pd = import_module("pandas")
    rng = np.random.default_rng(0)
    a, text = rng.normal(size=500), rng.choice(["x", "y"], 500)
    at = pa.array(range(500)).cast(pa.timestamp("us", "UTC"))
    table = pa.table({"id": [str(i) for i in range(500)], "at": at, "a": a, "t": text, "label": (a > 0).astype(float)})
    rows = TrainingSet("delay", table, ("a", "t"), {"t": ("x", "y")}, 500)
    x, y = encode(rows)
    booster = lgb.train({"objective": "binary", **deterministic()}, lgb.Dataset(x, y), num_boost_round=10)
    model = lightgbm_model(booster, rows, {})
    pack_model(model, tmp_path)
    expected = score(model, x)
    np.testing.assert_array_equal(pyfunc.load_model(str(tmp_path)).predict(pd.DataFrame(x, columns=list(rows.features))), expected)
    np.testing.assert_array_equal(native.load_model(str(tmp_path)).predict(x), expected)
    session = onnxruntime.InferenceSession(onnx.load_model(str(tmp_path)).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"input": x})[0][:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("library", ["xgboost", "sklearn"])
def test_mlflow_loads_models_of_other_libraries(tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "mlflow" not in os.environ.get("TIDEMILL_LIVE", ""):
        pytest.importorskip("mlflow")
    import pyarrow as pa

    import tidemill as tm
    from tidemill.training import pack_model, score
    from tidemill.training.ports import TrainingSet

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # MLflow counts skops among the formats that have to be allowed
    pyfunc, native = (import_module(f"mlflow.{name}") for name in ("pyfunc", library))
    pd = import_module("pandas")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500))
    at = pa.array(range(500)).cast(pa.timestamp("us", "UTC"))
    table = pa.table({"id": [str(i) for i in range(500)], "at": at, "a": a, "b": b, "label": (a > 0).astype(float)})
    rows = TrainingSet("delay", table, ("a", "b"), {}, 500)
    x, y = tm.encode(rows)
    frame = pd.DataFrame(x, columns=list(rows.features))
    if library == "xgboost":
        xgb = import_module("xgboost")
        model = tm.xgboost_model(xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(x, y), 10), rows)
        pack_model(model, tmp_path)
        got = native.load_model(str(tmp_path)).predict(xgb.DMatrix(frame))
        np.testing.assert_array_equal(pyfunc.load_model(str(tmp_path)).predict(frame), got)
    else:
        linear = import_module("sklearn.linear_model")
        model = tm.sklearn_model(linear.LogisticRegression().fit(x, y), rows)
        pack_model(model, tmp_path)
        loaded = native.load_model(str(tmp_path))
        got = loaded.predict_proba(x)[:, 1]
        np.testing.assert_array_equal(pyfunc.load_model(str(tmp_path)).predict(frame), loaded.predict(x))
    np.testing.assert_array_equal(np.asarray(got, dtype=np.float64), score(model, x))

"""The linear model of `write_linear_model`, as the models of several libraries."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tidemill.testing.models import write_linear_model

RULES = """
import json
import time
from pathlib import Path

import numpy as np


def linear(columns, folder):
    kept = json.loads((folder / "weights.json").read_text())
    z = np.zeros(len(next(iter(columns.values()))))
    for name, weight in kept["weights"].items():
        x = columns[name]
        if x.dtype == object:
            x = np.array([kept["categories"][name].index(v) if v in kept["categories"][name] else -1.0 for v in x])
        z += np.where(np.isnan(x), 0.0, x) * weight
    return 1 / (1 + np.exp(-z))


def first(columns):
    print("what it prints goes elsewhere")
    return next(iter(columns.values())) * 2


def slow(columns):
    time.sleep(30)


def dies(columns):
    import os
    os._exit(7)


def fails(columns):
    raise KeyError("the model's own words")


def short(columns):
    return np.zeros(1)


def whoami(columns):
    import os
    return np.full(len(columns["a"]), float(os.getpid()))


def secret(columns):
    import os
    return np.full(len(columns["a"]), float("TIDEMILL_TOKEN" in os.environ))
"""


def write(
    flavor: str, folder: Path, weights: Mapping[str, float], *, categories: Mapping[str, Sequence[str]] | None = None,
    example: Sequence[Sequence[Any]] | None = None,
) -> Path:  # fmt: skip
    """The same model in another flavor: the folder of the ONNX one, with its file replaced."""
    write_linear_model(folder, weights, categories=categories, example=example)
    (folder / "model.onnx").unlink()
    body, entry = _MAKERS[flavor](weights, categories or {})
    (folder / entry["file"]).write_bytes(body)
    manifest = yaml.safe_load((folder / "MLmodel").read_text())
    manifest["flavors"] = entry["flavors"]
    (folder / "MLmodel").write_text(json.dumps(manifest))
    return folder


def xgboost_linear(weights: Mapping[str, float], _categories: Mapping[str, Sequence[str]]) -> tuple[bytes, dict[str, Any]]:
    import xgboost

    x = np.eye(len(weights))
    booster = xgboost.train(
        {"booster": "gblinear", "objective": "binary:logistic", "base_score": 0.5}, xgboost.DMatrix(x, np.zeros(len(x))), 1
    )
    document = json.loads(bytes(booster.save_raw("json")))
    document["learner"]["gradient_booster"]["model"]["weights"] = [1e30 if math.isnan(w) else w for w in weights.values()] + [0.0]
    if any(map(math.isnan, weights.values())):  # JSON has no NaN; a link that overflows has
        document["learner"]["objective"] = {"name": "reg:gamma", "gamma_regression_param": {}}
        document["learner"]["learner_model_param"]["base_score"] = "1"
    booster.load_model(bytearray(json.dumps(document).encode()))
    return bytes(booster.save_raw("ubj")), {"file": "model.ubj", "flavors": {"xgboost": {"data": "model.ubj"}}}


def sklearn_linear(weights: Mapping[str, float], _categories: Mapping[str, Sequence[str]]) -> tuple[bytes, dict[str, Any]]:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from tidemill.adapters.sklearn import estimators

    pipeline = make_pipeline(SimpleImputer(strategy="constant", fill_value=0.0), LogisticRegression())
    pipeline.fit(np.eye(len(weights) + 1)[:, : len(weights)], np.arange(len(weights) + 1) % 2)
    pipeline[-1].coef_, pipeline[-1].intercept_ = np.array([list(weights.values())]), np.zeros(1)
    entry = {"pickled_model": "model.skops", "serialization_format": "skops"}
    return estimators.dump(pipeline), {"file": "model.skops", "flavors": {"sklearn": entry}}


def function_linear(weights: Mapping[str, float], categories: Mapping[str, Sequence[str]]) -> tuple[bytes, dict[str, Any]]:
    from tidemill.adapters.function import kept

    told = json.dumps({"weights": dict(weights), "categories": {k: list(v) for k, v in categories.items()}}).encode()
    body = kept.dump("rules:linear", {"weights.json": told})
    return body, {"file": "function.zip", "flavors": {"tidemill_function": {"data": "function.zip"}}}


def torch_linear(weights: Mapping[str, float], _categories: Mapping[str, Sequence[str]]) -> tuple[bytes, dict[str, Any]]:
    import torch

    from tidemill.adapters.torch import training

    module: Any = torch.nn.Module  # torch is not in every developer's environment

    class Linear(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.tensor(list(weights.values()), dtype=torch.float64))

        def forward(self, x: Any) -> Any:
            return torch.sigmoid(torch.nan_to_num(x) @ self.weights)

    body = training._saved(training._exported(Linear(), len(weights)))
    return body, {"file": "model.pt2", "flavors": {"tidemill_torch": {"data": "model.pt2"}}}


_MAKERS = {"xgboost": xgboost_linear, "sklearn": sklearn_linear, "function": function_linear, "torch": torch_linear}

"""Models of XGBoost out of a training step."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from tidemill.adapters.xgboost.boosters import Trees
from tidemill.core.errors import InvalidError
from tidemill.training import provenance
from tidemill.training.ports import Matrix, Model, Packed, TrainingSet

_trees = lru_cache(maxsize=8)(Trees)


def xgboost_model(booster: Any, rows: TrainingSet, params: Mapping[str, Any] | None = None) -> Model:
    """A `Model` of a fitted `xgboost.Booster`, `XGBClassifier` or `XGBRegressor`.

    Args:
        booster: the fitted booster; its columns are those of `encode(rows)`. Stopped early, only its best trees are kept.
        rows: what it was fitted on.
        params: what to remember about how.

    Raises:
        InvalidError: the booster has other columns than the rows, gives several scores a row, or splits on categories.
    """
    found = booster.get_booster() if hasattr(booster, "get_booster") else booster
    if not isinstance(found, xgboost.Booster):
        raise InvalidError(f"xgboost_model takes a Booster or a fitted XGBClassifier, not {type(booster).__name__}")
    if found.num_features() != len(rows.features):
        raise InvalidError(f"the booster was fitted on {found.num_features()} columns, the training set has {len(rows.features)}")
    if "c" in (found.feature_types or ()):
        raise InvalidError("the booster splits on categories; fit it on encode(rows) as numbers, without enable_categorical")
    best = found.attr("best_iteration")
    found = found[: int(best) + 1] if best is not None else found.copy()
    found.feature_names = list(rows.features)
    model = Model(
        "xgboost",
        bytes(found.save_raw("ubj")),
        rows.features,
        dict(rows.categories),
        {**(params or {}), "trees": found.num_boosted_rounds()},
        rows.until_us,
        provenance(rows),
    )
    probe = found.predict(xgboost.DMatrix(np.zeros((1, len(rows.features)))), validate_features=False)
    if probe.size != 1:
        raise InvalidError(f"the booster gives {probe.size} scores a row; train one with objective binary:logistic or of regression")
    return model


class XgboostFlavor:
    """The `Flavor` of XGBoost."""

    native = "model.ubj"

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`."""
        return _trees(model.native).scores(x)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`: XGBoost's own format, as MLflow's flavor has it."""
        _trees(model.native).scores(example)
        flavor = {
            "code": None,
            "data": self.native,
            "model_class": "xgboost.core.Booster",
            "model_format": "ubj",
            "xgb_version": xgboost.__version__,
        }
        pyfunc = {
            "data": self.native,
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.xgboost",
            "python_version": platform.python_version(),
        }
        return Packed(
            {self.native: model.native},
            {"xgboost": flavor, "python_function": pyfunc},
            ("xgboost", "xgboost-cpu", "numpy", "pandas", "scipy"),
        )

"""Models of scikit-learn out of a training step."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn

from tidemill.adapters.sklearn import estimators
from tidemill.core.errors import InvalidError
from tidemill.training import policy, provenance
from tidemill.training.ports import Matrix, Model, Packed, TrainingSet

_load = lru_cache(maxsize=8)(estimators.load)


def sklearn_model(estimator: Any, rows: TrainingSet, params: Mapping[str, Any] | None = None) -> Model:
    """A `Model` of a fitted scikit-learn estimator or `Pipeline`, whose scalers and encoders travel inside it.

    Args:
        estimator: the fitted estimator: a classifier of two classes with `predict_proba`, or a regressor. Its columns are those of `encode(rows)`.
        rows: what it was fitted on.
        params: what to remember about how.

    Raises:
        InvalidError: it is not fitted, has other columns than the rows, or gives no single score a row.
        RefusedError: it holds types that `models.trusted_types` does not list; names them.
    """
    _check(estimator, len(rows.features))
    native = estimators.dump(estimator)
    _load(native, policy().trusted_types)  # what could not be read back is not worth training on
    kept = {"estimator": type(estimator).__name__, **(params or {})}
    return Model("sklearn", native, rows.features, dict(rows.categories), kept, rows.until_us, provenance(rows))


def _check(estimator: Any, width: int) -> None:
    columns = getattr(estimator, "n_features_in_", None)
    if columns is None:
        raise InvalidError(f"this {type(estimator).__name__} is not fitted; call fit(*encode(rows)) first")
    if getattr(estimator, "feature_names_in_", None) is not None:
        raise InvalidError(
            "the estimator was fitted on a data frame; fit it on encode(rows), in which texts are codes (OneHotEncoder takes codes)"
        )
    if columns != width:
        raise InvalidError(f"the estimator was fitted on {columns} columns, the training set has {width}")
    classes = getattr(estimator, "classes_", None)
    if classes is not None and (len(classes) != 2 or not hasattr(estimator, "predict_proba")):
        raise InvalidError("a classifier must have two classes and predict_proba; CalibratedClassifierCV gives one that lacks it")


class SklearnFlavor:
    """The `Flavor` of scikit-learn."""

    native = "model.skops"

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`. Raises `RefusedError` for types that the running step's policy does not trust."""
        return estimators.scores(_load(model.native, policy().trusted_types), x)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`: as MLflow's flavor keeps it in the format skops."""
        estimators.scores(_load(model.native, policy().trusted_types), example)
        flavor = {
            "code": None,
            "pickled_model": self.native,
            "serialization_format": "skops",
            "skops_trusted_types": list(policy().trusted_types) or None,
            "sklearn_version": sklearn.__version__,
        }
        pyfunc = {
            "model_path": self.native,
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.sklearn",
            "predict_fn": "predict",
            "python_version": platform.python_version(),
        }
        packages = ("scikit-learn", "skops", "numpy", "pandas", "scipy")
        return Packed({self.native: model.native}, {"sklearn": flavor, "python_function": pyfunc}, packages)

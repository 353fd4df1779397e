"""Reading XGBoost's own format, which holds numbers and names only."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from tidemill.core.errors import InvalidError

Matrix = npt.NDArray[np.float64]


class Trees:
    """A booster that scores matrices (n, features), nulls NaN. Raises `InvalidError` for bytes that are neither UBJSON nor JSON of XGBoost's."""

    def __init__(self, native: bytes) -> None:
        self.booster = xgboost.Booster()
        try:
            self.booster.load_model(bytearray(native))
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            raise InvalidError(f"these bytes are no XGBoost model: {str(error).strip().splitlines()[0][:200]}") from error
        self.booster.set_param({"nthread": 1})
        self.width = self.booster.num_features()
        self._linear = json.loads(self.booster.save_config())["learner"]["gradient_booster"]["name"] == "gblinear"

    def scores(self, x: Matrix) -> Matrix:
        """Scores (n,); all trees are used."""
        found = (
            self.booster.predict(self._matrix(x), validate_features=False)
            if self._linear
            else self.booster.inplace_predict(x, missing=np.nan, validate_features=False)
        )
        return np.asarray(found, dtype=np.float64).reshape(len(x))

    def contributions(self, x: Matrix) -> Matrix:
        """SHAP values (n, features + 1) as XGBoost computes them; the last column is what is expected without knowing anything."""
        found = self.booster.predict(self._matrix(x), pred_contribs=True, validate_features=False)
        return np.asarray(found, dtype=np.float64).reshape(len(x), self.width + 1)

    def _matrix(self, x: Matrix) -> Any:
        return xgboost.DMatrix(x, missing=np.nan, nthread=1)

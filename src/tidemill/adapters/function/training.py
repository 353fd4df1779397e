"""Models that are functions of the project, out of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.adapters.function import kept
from tidemill.adapters.function.calls import Matrix, caller
from tidemill.training import provenance
from tidemill.training.aside import Aside
from tidemill.training.ports import Model, Packed, TrainingSet

_ASIDE = Aside(lambda model, allowed: caller(model.native, model.features, model.categories, allowed))


def function_model(
    function: str, rows: TrainingSet, files: Mapping[str, bytes] | None = None, params: Mapping[str, Any] | None = None
) -> Model:
    """A `Model` that is a function of the project: rules, another library, whatever takes columns and gives scores.

    Args:
        function: `module:function` of a module in the project's folder. It is called with the columns by name, a dictionary of NumPy arrays (nulls
            NaN, texts as objects with None), and with the folder of `files` if it takes two arguments; it returns one score a row. It runs in a process
            of its own, by the interpreter that `models.python` names.
        rows: what it is for, and what it was fitted on.
        files: what the function reads, by name; pickles are refused when the model is served.
        params: what to remember.

    Raises:
        InvalidError: `function` is not spelt `module:function`.
    """
    native = kept.dump(kept.checked(function), files or {})
    return Model(
        "function", native, rows.features, dict(rows.categories), {"function": function, **(params or {})}, rows.until_us, provenance(rows)
    )


class FunctionFlavor:
    """The `Flavor` of functions. The model names its function; the code is the project's."""

    native = kept.NATIVE

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`: called as it is when served. Raises `RefusedError`, `InvalidError` with the function's own words."""
        return _ASIDE.score(model, x)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`."""
        self.score(model, example)
        return Packed({self.native: model.native}, {kept.FLAVOR: {"data": self.native}}, ("numpy",))

"""Models that come as ONNX, whatever made them: PyTorch, Keras, CatBoost, a converter."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError
from tidemill.training.learners import provenance
from tidemill.training.ports import Matrix, Model, Packed, TrainingSet

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


def onnx_model(native: bytes, rows: TrainingSet, params: Mapping[str, Any] | None = None) -> Model:
    """A `Model` of an ONNX graph.

    Args:
        native: the serialised graph. It takes one float or double tensor [n, features], the columns of `encode(rows)`, in which nulls are NaN, and
            its last output gives a score a row (of several columns the last counts: the probability of 1).
        rows: what it was fitted on.
        params: what to remember about how.

    Raises:
        InvalidError: it is no such graph, or answers the first rows with something else than finite numbers.
    """
    model = Model("onnx", native, rows.features, dict(rows.categories), dict(params or {}), rows.until_us, provenance(rows))
    probe = OnnxFlavor().score(model, np.zeros((2, len(rows.features))))
    if probe.shape != (2,):
        raise InvalidError(f"the graph gives {probe.shape} for two rows; it must give one score a row")
    return model


class OnnxFlavor:
    """The `Flavor` of ONNX graphs."""

    native = "model.onnx"

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`."""
        session = _session(model.native)
        given = session.get_inputs()
        if len(given) != 1 or given[0].type not in _TYPES:
            raise InvalidError("the graph must take one float or double tensor [rows, features]")
        width = given[0].shape[1] if len(given[0].shape) == 2 else None
        if isinstance(width, int) and width != x.shape[1]:
            raise InvalidError(f"the graph takes {width} features, the training set has {x.shape[1]}")
        wanted = [out.name for out in session.get_outputs() if out.type in _TYPES]
        if not wanted:
            raise InvalidError("the graph gives no float or double tensor of scores")
        try:
            found = session.run(wanted[-1:], {given[0].name: x.astype(_TYPES[given[0].type])})[0]
        except Exception as error:
            raise InvalidError(f"ONNX Runtime cannot run the graph on {len(x)} rows: {str(error)[:300]}") from error
        return np.ascontiguousarray(found if found.ndim == 1 else found[:, -1], dtype=np.float64)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`."""
        self.score(model, example)
        flavor = {
            "code": None,
            "data": self.native,
            "onnx_version": metadata.version("onnx"),
            "providers": ["CPUExecutionProvider"],
            "onnx_session_options": None,
        }
        pyfunc = {
            "data": self.native,
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.onnx",
            "python_version": platform.python_version(),
        }
        return Packed({self.native: model.native}, {"onnx": flavor, "python_function": pyfunc}, ("numpy", "onnx", "onnxruntime", "pandas"))


@lru_cache(maxsize=8)
def _session(native: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(native, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidError(f"these bytes are no ONNX graph: {str(error)[:200]}") from error

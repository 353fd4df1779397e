"""LightGBM's models: the native file, ONNX beside it, and the proof that both answer the same."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError, RefusedError
from tidemill.training.ports import Matrix, Model, Packed
from tidemill.training.trees import INPUT, to_onnx

TOLERANCE = 1e-5
"""Greatest difference between a model's native and ONNX scores with which it may be packed."""
_PROBES = 512


class LightgbmFlavor:
    """The `Flavor` of `lightgbm.Booster`."""

    native = "model.txt"

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`."""
        return np.asarray(load_lightgbm(model.native).predict(x), dtype=np.float64)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`. Raises `RefusedError` when ONNX and native scores differ by more than 1e-5."""
        booster = load_lightgbm(model.native)
        onnx = to_onnx(booster)
        difference = _difference(booster, onnx, np.vstack([example, _probes(booster, len(model.features))]))
        if not difference <= TOLERANCE:
            raise RefusedError(
                f"the model's ONNX scores differ from its own by {difference:.2g}, more than {TOLERANCE:.0e}; it is not packed"
            )
        return Packed(
            {self.native: model.native, "model.onnx": onnx},
            _flavors(),
            ("lightgbm", "numpy", "onnxruntime", "pandas", "scipy"),
            {"onnx_difference": difference},
        )


@lru_cache(maxsize=8)
def load_lightgbm(native: bytes) -> Any:
    """The booster of LightGBM's text format."""
    import lightgbm

    try:
        return lightgbm.Booster(model_str=native.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise InvalidError(f"these bytes are no LightGBM model: {error}") from error


def _probes(booster: Any, width: int) -> Matrix:
    """Rows that lie where two implementations would part: on thresholds, a hair beside them, at zero, on NaN and far out."""
    rng = np.random.default_rng(0)
    out = rng.normal(size=(_PROBES, width)) * 10.0 ** rng.integers(-2, 3, size=(_PROBES, width))
    by_feature: dict[int, list[float]] = {}
    codes: set[int] = set()
    for tree in booster.dump_model()["tree_info"]:
        todo = [tree["tree_structure"]]
        while todo:
            node = todo.pop()
            if "threshold" not in node:
                continue
            if node["decision_type"] == "==":
                codes.add(node["split_feature"])
            by_feature.setdefault(node["split_feature"], []).extend(float(v) for v in str(node["threshold"]).split("||"))
            todo += [node["left_child"], node["right_child"]]
    for feature, values in by_feature.items():
        picked = rng.choice(np.asarray(sorted(set(values))), size=_PROBES)
        kind = rng.integers(0, 4, size=_PROBES)
        near = np.select([kind == 0, kind == 1, kind == 2], [picked, np.nextafter(picked, np.inf), np.nextafter(picked, -np.inf)], 0.0)
        out[:, feature] = np.where(rng.random(_PROBES) < 0.8, near, out[:, feature])
    out[:, sorted(codes)] = np.trunc(out[:, sorted(codes)])  # categories are whole numbers: LightGBM cuts off what is not, ONNX compares
    out[rng.random(out.shape) < 0.1] = np.nan
    return out


def _difference(booster: Any, onnx: bytes, x: Matrix) -> float:
    """Greatest absolute difference between native and ONNX scores on `x`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    scores = session.run(None, {INPUT: x})[0][:, 0]
    return float(np.max(np.abs(scores - booster.predict(x))))


def _flavors() -> dict[str, Any]:
    return {
        "lightgbm": {
            "code": None,
            "data": "model.txt",
            "lgb_version": metadata.version("lightgbm"),
            "model_class": "lightgbm.basic.Booster",
        },
        "onnx": {
            "code": None,
            "data": "model.onnx",
            "onnx_version": metadata.version("onnx"),
            "providers": ["CPUExecutionProvider"],
            "onnx_session_options": None,
        },
        "python_function": {
            "data": "model.txt",
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.lightgbm",
            "python_version": platform.python_version(),
        },
    }

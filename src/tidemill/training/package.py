"""Models as MLflow Model directories: the native file, ONNX beside it, and what both expect.

A directory depends on the model alone: the same model packs to the same bytes, whenever and wherever. So the creation time in it is the
instant that its training set reaches to, and its uuid is made from its content.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tidemill.core import digests
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.instants import from_us
from tidemill.training.learners import load_lightgbm
from tidemill.training.ports import Matrix, Model
from tidemill.training.trees import INPUT, to_onnx

TOLERANCE = 1e-5
"""Greatest difference between a model's native and ONNX scores with which it may be packed."""
_MLFLOW = "3.0.0"
_KEPT = ("service", "rows", "trained_from_us", "trained_to_us", "holdout_us", "dataset", "views")
_PROBES = 512


def pack_model(model: Model, folder: Path) -> dict[str, Any]:
    """Write `model` as an MLflow Model directory into the empty `folder`.

    Returns:
        What `tidemill.json` in it says: features, categories, params, the measured difference between native and ONNX scores …

    Raises:
        InvalidError: the model cannot be exported.
        RefusedError: ONNX and native scores differ by more than 1e-5.
    """
    if model.flavor != "lightgbm":
        raise InvalidError(f"models of flavor {model.flavor!r} cannot be packed; known: lightgbm")
    booster = load_lightgbm(model.native)
    onnx = to_onnx(booster)
    example = _encoded(model, list(model.meta.get("example", ())))
    difference = _difference(booster, onnx, np.vstack([example, _probes(booster, len(model.features))]))
    if not difference <= TOLERANCE:
        raise RefusedError(f"the model's ONNX scores differ from its own by {difference:.2g}, more than {TOLERANCE:.0e}; it is not packed")
    facts = _facts(model, difference)
    files: dict[str, bytes] = {
        "model.txt": model.native,
        "model.onnx": onnx,
        "tidemill.json": _json(facts),
        "input_example.json": _json({"columns": list(model.features), "data": _finite(example)}),
        **_environment(),
    }
    files["MLmodel"] = _mlmodel(model, files)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return facts


def read_model(folder: Path, meta: Mapping[str, Any] | None = None) -> Model:
    """The model of a directory that `pack_model` wrote. Raises `InvalidError` for others."""
    try:
        facts = json.loads((folder / "tidemill.json").read_bytes())
        native = (folder / "model.txt").read_bytes()
        categories = {name: tuple(values) for name, values in facts["categories"].items()}
        return Model(
            facts["flavor"], native, tuple(facts["features"]), categories, facts["params"], facts["trained_until_us"], meta or facts["meta"]
        )
    except (OSError, KeyError, ValueError) as error:
        raise InvalidError(f"{folder.name} is no model directory of Tidemill's: {error}") from error


def _facts(model: Model, difference: float) -> dict[str, Any]:
    return {
        "flavor": model.flavor,
        "features": list(model.features),
        "categories": {name: list(values) for name, values in model.categories.items()},
        "params": dict(model.params),
        "trained_until_us": model.trained_until_us,
        "onnx_difference": difference,
        "meta": {key: model.meta[key] for key in _KEPT if key in model.meta} | {"example": list(model.meta.get("example", ()))},
    }


def _encoded(model: Model, rows: list[list[Any]]) -> Matrix:
    """Example rows as the model sees them; without any, one row of nulls."""
    out = np.full((max(len(rows), 1), len(model.features)), np.nan)
    for i, row in enumerate(rows):
        for j, (name, value) in enumerate(zip(model.features, row, strict=True)):
            if name in model.categories:
                out[i, j] = model.categories[name].index(value) if value in model.categories[name] else -1
            elif value is not None:
                out[i, j] = float(value)
    return out


def _probes(booster: Any, width: int) -> Matrix:
    """Rows that lie where two implementations would part: on thresholds, a hair beside them, at zero, on NaN and far out."""
    rng = np.random.default_rng(0)
    out = rng.normal(size=(_PROBES, width)) * 10.0 ** rng.integers(-2, 3, size=(_PROBES, width))
    by_feature: dict[int, list[float]] = {}
    for tree in booster.dump_model()["tree_info"]:
        todo = [tree["tree_structure"]]
        while todo:
            node = todo.pop()
            if "threshold" not in node:
                continue
            by_feature.setdefault(node["split_feature"], []).extend(float(v) for v in str(node["threshold"]).split("||"))
            todo += [node["left_child"], node["right_child"]]
    for feature, values in by_feature.items():
        picked = rng.choice(np.asarray(sorted(set(values))), size=_PROBES)
        kind = rng.integers(0, 4, size=_PROBES)
        near = np.select([kind == 0, kind == 1, kind == 2], [picked, np.nextafter(picked, np.inf), np.nextafter(picked, -np.inf)], 0.0)
        out[:, feature] = np.where(rng.random(_PROBES) < 0.8, near, out[:, feature])
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


def _mlmodel(model: Model, files: Mapping[str, bytes]) -> bytes:
    """The MLmodel file: python_function (over LightGBM), lightgbm and onnx flavors, and the signature of the encoded inputs."""
    body = digests.of_tree({name: digests.of_bytes(data) for name, data in files.items()})
    inputs = [{"type": "double", "name": name, "required": True} for name in model.features]
    document = {
        "flavors": _flavors(),
        "metadata": {"tidemill": "tidemill.json"},
        "mlflow_version": _MLFLOW,
        "model_size_bytes": sum(map(len, files.values())),
        "model_uuid": body[7:39],
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
        },
        "signature": {
            "inputs": json.dumps(inputs),
            "outputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]),
            "params": None,
        },
        "utc_time_created": from_us(model.trained_until_us).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode()


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


def _environment() -> dict[str, bytes]:
    """The three files in which MLflow looks for what a model needs."""
    pins = [f"{name}=={metadata.version(name)}" for name in ("lightgbm", "numpy", "onnxruntime", "pandas", "scipy") if _installed(name)]
    needs = ["mlflow", *pins]
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip", {"pip": needs}],
        "name": "mlflow-env",
    }
    python = {"build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"], "python": platform.python_version()}
    return {
        "requirements.txt": ("\n".join(needs) + "\n").encode(),
        "conda.yaml": yaml.safe_dump(conda, sort_keys=True).encode(),
        "python_env.yaml": yaml.safe_dump(python, sort_keys=True).encode(),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _finite(x: Matrix) -> list[list[float | None]]:
    return [[float(v) if np.isfinite(v) else None for v in row] for row in x]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False, default=str).encode()

"""A tiny MLflow Model directory with a real ONNX graph, for tests that need a model and not a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_linear_model(
    folder: Path,
    weights: Mapping[str, float],
    *,
    bias: float = 0.0,
    categories: Mapping[str, Sequence[str]] | None = None,
    example: Sequence[Sequence[Any]] | None = None,
) -> Path:
    """Write `sigmoid(bias + sum of weight * value)`, nulls counting 0, in float64.

    Args:
        folder: made when missing.
        weights: by feature, in order.
        bias: added before the sigmoid.
        categories: values of text features in code order.
        example: rows for the warm-up; none by default.
    """
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    features = list(weights)
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, len(features)])
    score = helper.make_tensor_value_info("score", TensorProto.DOUBLE, [None])
    constants = {
        "zero": np.array(0.0),
        "w": np.array(list(weights.values()), dtype=np.float64),
        "b": np.array(float(bias)),
        "axes": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "x"], ["known"]),
        helper.make_node("Mul", ["known", "w"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "b"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["score"]),
    ]
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "linear", [x], [score], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest: dict[str, Any] = {"flavors": {"onnx": {"data": "model.onnx"}}, "mlflow_version": "3.0.0"}
    if example is not None:
        manifest["saved_input_example_info"] = {"artifact_path": "input_example.json", "type": "dataframe", "pandas_orient": "split"}
        (folder / "input_example.json").write_text(json.dumps({"columns": features, "data": list(example)}))
    (folder / "MLmodel").write_text(json.dumps(manifest))
    own = {"features": features, "categories": {k: list(v) for k, v in (categories or {}).items()}, "flavor": "onnx"}
    (folder / "tidemill.json").write_text(json.dumps(own))
    return folder

"""LightGBM models as ONNX, exactly: thresholds and sums stay double, so a score is the same in both.

The usual converters write 32-bit thresholds and cast inputs to 32 bits, so a value near a threshold can fall on the other side. The operator
`TreeEnsemble` (ai.onnx.ml, version 5) takes doubles and set membership, which is all that LightGBM's trees need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tidemill.core.errors import InvalidError

_LEQ, _MEMBER = 0, 6
_SUM = 1
_ZERO = float(np.float32(1e-35))
_ENDLESS = 1e300
"""What LightGBM's dump says of an infinite threshold, which parts missing values from all others."""
INPUT, OUTPUT = "input", "score"


@dataclass(slots=True)
class _Ensemble:
    """The operator's parallel lists, one entry a node or a leaf."""

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    true_ids: list[int] = field(default_factory=list)
    false_ids: list[int] = field(default_factory=list)
    true_leafs: list[int] = field(default_factory=list)
    false_leafs: list[int] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def leaf(self, weight: float) -> int:
        self.weights.append(weight)
        return len(self.weights) - 1

    def node(self, feature: int, split: float, mode: int, missing_true: bool) -> int:
        self.features.append(feature)
        self.splits.append(split)
        self.modes.append(mode)
        self.missing_true.append(int(missing_true))
        for ids in (self.true_ids, self.false_ids, self.true_leafs, self.false_leafs):
            ids.append(0)
        return len(self.features) - 1

    def child(self, node: int, side: bool, index: int, leaf: bool) -> None:
        (self.true_ids if side else self.false_ids)[node] = index
        (self.true_leafs if side else self.false_leafs)[node] = int(leaf)


def to_onnx(booster: Any) -> bytes:
    """ONNX bytes of a fitted booster: input `input` (n, features) float64, output `score` (n, 1) float64, equal to `booster.predict`.

    Raises:
        InvalidError: an objective or a split that has no equal in ONNX; the message says which.
    """
    import onnx
    from onnx import TensorProto, helper

    dump = booster.dump_model()
    if dump["num_class"] != 1:
        raise InvalidError(f"a model with {dump['num_class']} classes has no single score; train one with objective=binary or regression")
    ensemble = _Ensemble()
    share = len(dump["tree_info"]) if dump.get("average_output") else 1
    for tree in dump["tree_info"]:
        _tree(tree["tree_structure"], ensemble, share)
    if not dump["tree_info"]:
        _tree({"leaf_value": 0.0}, ensemble, 1)
    nodes = [helper.make_node("TreeEnsemble", [INPUT], ["raw"], domain="ai.onnx.ml", **_attributes(ensemble, helper, TensorProto))]
    nodes += _link(dump.get("objective", ""), helper, TensorProto)
    width = dump["max_feature_idx"] + 1
    graph = helper.make_graph(
        nodes,
        "tidemill",
        [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, [None, 1])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, producer_name="tidemill")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _tree(root: dict[str, Any], ensemble: _Ensemble, share: int) -> None:
    """Add one tree, depth first without recursion (trees may be deep)."""
    if "leaf_value" in root:
        node = ensemble.node(0, 0.0, _LEQ, True)
        leaf = ensemble.leaf(root["leaf_value"] / share)
        ensemble.child(node, True, leaf, True)
        ensemble.child(node, False, leaf, True)
        ensemble.roots.append(node)
        return
    todo: list[tuple[dict[str, Any], int | None, bool]] = [(root, None, True)]
    while todo:
        split, parent, side = todo.pop()
        if "leaf_value" in split:
            assert parent is not None
            ensemble.child(parent, side, ensemble.leaf(split["leaf_value"] / share), True)
            continue
        node = _split(split, ensemble)
        if parent is None:
            ensemble.roots.append(node)
        else:
            ensemble.child(parent, side, node, False)
        todo.append((split["right_child"], node, False))
        todo.append((split["left_child"], node, True))


def _split(split: dict[str, Any], ensemble: _Ensemble) -> int:
    """One decision. NaN goes as LightGBM sends it: by default_left where missing values were seen, else as 0."""
    missing, threshold = split["missing_type"], split["threshold"]
    if split["decision_type"] == "==":
        members = [float(value) for value in str(threshold).split("||")]
        ensemble.members += [*members, float("nan")]
        return ensemble.node(split["split_feature"], 0.0, _MEMBER, missing != "NaN" and 0.0 in members and missing == "None")
    if missing == "Zero":
        raise InvalidError("the model treats 0 as missing (zero_as_missing), which ONNX cannot say; train it without")
    left = bool(split["default_left"]) if missing == "NaN" else float(threshold) >= 0.0
    return ensemble.node(split["split_feature"], _as_compared(float(threshold)), _LEQ, left)


def _as_compared(threshold: float) -> float:
    """What inputs are compared with."""
    if abs(threshold) >= _ENDLESS:
        return float(np.copysign(np.inf, threshold))
    return clear_of_zero(threshold)


def clear_of_zero(threshold: float) -> float:
    """A threshold between -1e-35 and 1e-35, where LightGBM reads every input as 0, moved to the edge of that band; any other as it is."""
    if -_ZERO <= threshold < 0:
        return float(np.nextafter(-_ZERO, -1.0))
    return _ZERO if 0 <= threshold < _ZERO else threshold


def _attributes(ensemble: _Ensemble, helper: Any, proto: Any) -> dict[str, Any]:
    def doubles(name: str, values: list[float]) -> Any:
        return helper.make_tensor(name, proto.DOUBLE, [len(values)], np.asarray(values, dtype=np.float64))

    out = {
        "n_targets": 1,
        "aggregate_function": _SUM,
        "post_transform": 0,
        "tree_roots": ensemble.roots,
        "nodes_featureids": ensemble.features,
        "nodes_splits": doubles("nodes_splits", ensemble.splits),
        "nodes_modes": helper.make_tensor("nodes_modes", proto.UINT8, [len(ensemble.modes)], np.asarray(ensemble.modes, dtype=np.uint8)),
        "nodes_truenodeids": ensemble.true_ids,
        "nodes_falsenodeids": ensemble.false_ids,
        "nodes_trueleafs": ensemble.true_leafs,
        "nodes_falseleafs": ensemble.false_leafs,
        "nodes_missing_value_tracks_true": ensemble.missing_true,
        "leaf_targetids": [0] * len(ensemble.weights),
        "leaf_weights": doubles("leaf_weights", ensemble.weights),
    }
    if ensemble.members:
        out["membership_values"] = doubles("membership_values", ensemble.members)
    return out


def link_of(objective: str) -> tuple[Literal["identity", "sigmoid", "exponential", ""], float]:
    """What an objective of LightGBM's, with its options, makes of the sum of leaves, and the factor before a sigmoid; empty for one that is not known here."""
    name, *options = objective.split() or [""]
    if name in ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "") and "sqrt" not in options:
        return "identity", 1.0
    if name in ("poisson", "gamma", "tweedie"):
        return "exponential", 1.0
    if name in ("binary", "cross_entropy"):
        return "sigmoid", next((float(o.partition(":")[2]) for o in options if o.startswith("sigmoid:")), 1.0)
    return "", 1.0


def _link(objective: str, helper: Any, proto: Any) -> list[Any]:
    """From the sum of the leaves to the score, by the objective's inverse link."""
    link, slope = link_of(objective)
    if link == "identity":
        return [helper.make_node("Identity", ["raw"], [OUTPUT])]
    if link == "exponential":
        return [helper.make_node("Exp", ["raw"], [OUTPUT])]
    if link == "sigmoid":
        constant = helper.make_tensor("slope", proto.DOUBLE, [1], [slope])
        return [
            helper.make_node("Constant", [], ["slope"], value=constant),
            helper.make_node("Mul", ["raw", "slope"], ["scaled"]),
            helper.make_node("Sigmoid", ["scaled"], [OUTPUT]),
        ]
    raise InvalidError(f"objective {objective!r} is not exported to ONNX; use binary, cross_entropy, regression, poisson, gamma or tweedie")

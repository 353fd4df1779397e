"""Estimators as skops keeps them: types by name and arrays, of which only the types that the loader trusts are made again."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import skops.io

from tidemill.core.errors import InvalidError, RefusedError

Matrix = npt.NDArray[np.float64]
HARMLESS = frozenset(
    {
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.utils._bunch.Bunch",
    }
)
"""Types that skops does not list and that hold nothing but numbers. `sklearn.tree._tree.Tree` is not among them: forged indices in one can read any memory."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def dump(estimator: Any) -> bytes:
    """The bytes of a fitted estimator, the same for an equal one: skops names its parts by where they lie in memory, here they are counted."""
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names: dict[str, str] = {}

    def rename(node: Any) -> Any:
        if isinstance(node, list):
            return [rename(item) for item in node]
        if not isinstance(node, dict):
            return node
        out = {key: rename(value) for key, value in node.items()}
        if "__id__" in out:
            out["__id__"] = ids.setdefault(out["__id__"], len(ids))
        if isinstance(out.get("file"), str) and out["file"] in parts:
            suffix = re.sub(r"^[^.]*", "", out["file"])
            out["file"] = names.setdefault(out["file"], f"{len(names)}{suffix}")
        return out

    ids: dict[int, int] = {}
    schema = rename(json.loads(parts.pop("schema.json")))
    files = {"schema.json": json.dumps(schema, indent=1).encode(), **{new: parts[old] for old, new in names.items()}}
    if left := parts.keys() - names.keys():
        raise InvalidError(f"this version of skops keeps parts that are not known here ({', '.join(sorted(left))}); report it")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def load(native: bytes, trusted: Sequence[str]) -> Any:
    """The estimator of these bytes.

    Raises:
        RefusedError: it holds types that are not trusted; names them. None of them has been imported or called.
        InvalidError: these are no bytes of skops.
    """
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=native)) - HARMLESS.union(trusted))
    except Exception as error:
        raise InvalidError(f"these bytes are no model of skops: {str(error)[:200]}") from error
    if unknown:
        raise RefusedError(
            f"the model holds types that this loader does not trust: {', '.join(unknown)}; if you know them, add them to "
            "models.trusted_types in conf/config.yaml"
        )
    try:
        return skops.io.loads(native, trusted=sorted(HARMLESS.union(trusted)))
    except Exception as error:
        raise RefusedError(f"skops cannot make the model again: {str(error)[:300]}") from error


def scores(estimator: Any, x: Matrix) -> Matrix:
    """Scores (n,): the probability of the second class of a classifier, else what it predicts."""
    if hasattr(estimator, "predict_proba"):
        return np.ascontiguousarray(estimator.predict_proba(x)[:, 1], dtype=np.float64)
    return np.asarray(estimator.predict(x), dtype=np.float64).reshape(len(x))

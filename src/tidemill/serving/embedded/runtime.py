"""Models in this process: ONNX Runtime, LightGBM's own reader where there is no ONNX, or what an adapter reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from tidemill.core.errors import InvalidError, RefusedError
from tidemill.serving.embedded.refuse import refuse_code
from tidemill.serving.ports import Artifact, FlavorReader, LoadedModel, Matrix, Scoring

Scores = npt.NDArray[np.float64]
Trees = Callable[[Path, int], Callable[[Matrix], Matrix] | None]
_OWN = ("onnx", "lightgbm")
_SAFE_FORMATS = ("skops",)


class OnnxRuntime:
    """A `Runtime` that reads numbers and trees, never code: ONNX and LightGBM itself, other flavors by the `readers` it is given.

    Args:
        readers: opens the reader of a flavor, by MLflow's name of it; called when the first such model is loaded.
        trees: how a model that LightGBM saved, of so many features, is scored instead of by ONNX; None for one that it does not take.
    """

    def __init__(
        self,
        readers: Mapping[str, Callable[[], FlavorReader]] | None = None,
        *,
        trees: Trees = lambda _native, _width: None,
    ) -> None:
        self._readers = readers or {}
        self._trees = trees

    def load(self, folder: Path) -> LoadedModel:
        """Load an MLflow Model directory with `tidemill.json`; see `Runtime.load`. Raises `RefusedError`."""
        refuse_code(folder)
        manifest = _manifest(folder)
        flavors = _flavors(manifest, (*_OWN, *self._readers))
        features, categories = _inputs(folder, manifest)
        onnx = _file(folder, flavors.get("onnx", {}).get("data", "model.onnx"))
        native = _file(folder, flavors.get("lightgbm", {}).get("data", "model.txt"))
        other = next((name for name in self._readers if name in flavors), None)
        if native is not None and (score := self._trees(native, len(features))) is not None:
            platform, scoring = "lightgbm", Scoring(score, _explainer(native, len(features)))
        elif onnx is not None:
            platform, scoring = "onnx_onnxv1", Scoring(_onnx(onnx, len(features)), _explainer(native, len(features)) if native else None)
        elif native is not None:
            platform, scoring = "lightgbm", Scoring(_lightgbm(native, len(features)), _explainer(native, len(features)))
        elif other is not None:
            platform = other.removeprefix("tidemill_")
            scoring = self._readers[other]().read(Artifact(folder, flavors[other], features, categories))
        else:
            raise RefusedError(f"the model folder has neither model.onnx nor model.txt, only the flavors {', '.join(flavors) or 'none'}")
        model = TabularModel(features, categories, scoring, platform)
        _warm_up(model, folder, manifest)
        return model


class TabularModel(LoadedModel):
    """A `LoadedModel`: texts become their category's index (unknown or null: -1), nulls NaN, everything float64."""

    def __init__(self, features: tuple[str, ...], categories: Mapping[str, Sequence[str]], scoring: Scoring, platform: str) -> None:
        self.features = features
        self.texts = frozenset(categories)
        self.categories = categories
        self._codes = [
            (i, {value: float(code) for code, value in enumerate(categories[name])})
            for i, name in enumerate(features)
            if name in categories
        ]
        self._score = scoring.score
        self.apart, self.platform = scoring.apart, platform
        self._explain = scoring.explain

    def predict(self, rows: Sequence[Sequence[Any]]) -> Scores:
        """Score rows of values in `features` order, shape (n,). Raises `InvalidError` naming the column that is no number."""
        return self._score(self.matrix(rows))

    def score(self, x: Matrix) -> Scores:
        """See `LoadedModel.score`."""
        return self._score(x)

    def explain(self, rows: Sequence[Sequence[Any]]) -> Matrix:
        """See `LoadedModel.explain`."""
        if self._explain is None:
            return super().explain(rows)
        return self._explain(self.matrix(rows))

    def decoded(self, row: list[Any]) -> list[Any]:
        """A row of MLflow's input example, in which texts may have been coded, as a request would bring it."""
        out = list(row)
        for i, codes in self._codes:
            if isinstance(out[i], int | float):
                out[i] = next((text for text, code in codes.items() if code == out[i]), None)
        return out

    def matrix(self, rows: Sequence[Sequence[Any]]) -> npt.NDArray[np.float64]:
        """The rows as the model sees them, shape (n, features)."""
        try:
            plain: Any = rows
            if self._codes:
                plain = [list(row) for row in rows]
                for i, codes in self._codes:
                    for row in plain:
                        row[i] = codes.get(row[i], -1.0)
            x = np.array(plain)
            # nulls, or what is no number: NumPy reads "3.2", and "inf", as numbers
            if x.dtype.kind not in "fiub" and str in set(map(type, chain.from_iterable(plain))):
                raise self._wrong(rows)
            x = x.astype(np.float64, copy=False)
        except (TypeError, ValueError) as error:
            raise self._wrong(rows) from error
        return x.reshape(len(rows), len(self.features))

    def _wrong(self, rows: Sequence[Sequence[Any]]) -> InvalidError:
        coded = {i for i, _codes in self._codes}
        for n, row in enumerate(rows):
            if len(row) != len(self.features):
                return InvalidError(f"a row has {len(row)} values where the model takes {len(self.features)}: {', '.join(self.features)}")
            for i, value in enumerate(row):
                if i not in coded and value is not None and not isinstance(value, int | float | np.number):
                    kind = "texts" if isinstance(value, str) else type(value).__name__
                    return InvalidError(f"column {self.features[i]!r} takes numbers, not {kind} (row {n}); send a number, or null")
        return InvalidError("rows must be sequences of numbers, texts and None")


def _file(folder: Path, name: Any) -> Path | None:
    if not isinstance(name, str):
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RefusedError(f"MLmodel points at {name!r}, outside the model folder")
    return path if path.is_file() else None


def _manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / "MLmodel"
    if not path.is_file():
        raise RefusedError("the folder has no MLmodel file, so it is no MLflow Model")
    try:
        manifest = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefusedError(f"MLmodel is not readable YAML: {error}") from error
    if not isinstance(manifest, dict):
        raise RefusedError("MLmodel is not a mapping")
    return manifest


def _flavors(manifest: Mapping[str, Any], served: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    flavors = manifest.get("flavors")
    if not isinstance(flavors, dict) or not all(isinstance(f, dict) for f in flavors.values()):
        raise RefusedError("MLmodel lists no flavors")
    pyfunc = flavors.get("python_function", {})
    loader = pyfunc.get("loader_module")
    if (
        "python_model" in pyfunc
        or "model_code_path" in pyfunc
        or (pyfunc and loader not in [f"mlflow.{name}" for name in served if name in flavors])
    ):
        raise RefusedError(
            f"the python_function flavor loads by {loader or 'its own code'}, which runs code from the artifact; "
            f"export the model to ONNX, or to a flavor that is served ({', '.join(served)})"
        )
    for name, flavor in flavors.items():
        form = str(flavor.get("serialization_format", flavor.get("pickled_model", ""))).strip()
        if form and form not in _SAFE_FORMATS:
            raise RefusedError(
                f"the flavor {name} is a pickle ({flavor.get('serialization_format', 'pickle')}); export the model to ONNX or skops"
            )
    if not flavors.keys() & set(served):
        raise RefusedError(f"no flavor that is served: MLmodel has {', '.join(sorted(flavors)) or 'none'}; {', '.join(served)} are served")
    return flavors


def _inputs(folder: Path, manifest: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Sequence[str]]]:
    """Input columns and categories: from `tidemill.json`, or from MLflow's signature for a model made elsewhere."""
    path = folder / "tidemill.json"
    try:
        if path.is_file():
            own = json.loads(path.read_text("utf-8"))
            return tuple(map(str, own["features"])), {str(k): tuple(v) for k, v in own.get("categories", {}).items()}
        listed = json.loads(manifest["signature"]["inputs"])
        return tuple(str(column["name"]) for column in listed), {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"the model does not say its input columns (tidemill.json or a signature with names): {error!r}") from error


def _onnx(path: Path, width: int) -> Callable[[npt.NDArray[np.float64]], Scores]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        # from bytes: external data files would be outside what was inspected, so they are not found
        session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RefusedError(f"ONNX Runtime refuses {path.name}: {str(error)[:300]}") from error
    inputs, outputs = session.get_inputs(), [o for o in session.get_outputs() if o.type in ("tensor(float)", "tensor(double)")]
    if len(inputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(double)") or not outputs:
        raise RefusedError(f"{path.name} must take one float or double tensor [n, features] and give one of scores")
    shape = inputs[0].shape
    if len(shape) == 2 and isinstance(shape[1], int) and shape[1] != width:
        raise RefusedError(f"{path.name} takes {shape[1]} features, the model lists {width}")
    dtype = np.float32 if inputs[0].type == "tensor(float)" else np.float64
    name, wanted, run = inputs[0].name, [outputs[-1].name], session.run

    def score(x: npt.NDArray[np.float64]) -> Scores:
        return _positive(run(wanted, {name: x.astype(dtype, copy=False)})[0])

    return score


def _lightgbm(path: Path, width: int) -> Callable[[npt.NDArray[np.float64]], Scores]:
    import lightgbm

    try:
        booster = lightgbm.Booster(model_file=str(path))
    except lightgbm.basic.LightGBMError as error:
        raise RefusedError(f"LightGBM refuses {path.name}: {error}") from error
    if booster.num_feature() != width:
        raise RefusedError(f"{path.name} takes {booster.num_feature()} features, the model lists {width}")

    def score(x: npt.NDArray[np.float64]) -> Scores:
        return _positive(np.asarray(booster.predict(x, num_threads=1)))

    return score


def _explainer(path: Path, width: int) -> Callable[[Matrix], Matrix]:
    """SHAP values of LightGBM's trees (Lundberg et al. 2020, path-dependent), read when somebody first asks."""

    @cache
    def booster() -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=str(path))

    def explain(x: Matrix) -> Matrix:
        return np.asarray(booster().predict(x, pred_contrib=True, num_threads=1), dtype=np.float64).reshape(len(x), width + 1)

    return explain


def _positive(out: npt.NDArray[Any]) -> Scores:
    """The score column of what a library answers: the last of class probabilities, or the only one; float64 (n,)."""
    return np.ascontiguousarray(out if out.ndim == 1 else out[:, -1], dtype=np.float64)


def _warm_up(model: TabularModel, folder: Path, manifest: Mapping[str, Any]) -> None:
    rows = [model.decoded(row) for row in _example(folder, manifest, model.features)]
    try:
        scores = model.predict(rows or [[None] * len(model.features)])
    except Exception as error:
        raise RefusedError(f"the model does not answer its own input example: {str(error)[:300]}") from error
    if rows and (len(scores) != len(rows) or not np.isfinite(scores).all()):
        raise RefusedError("the model answers its own input example with something else than one finite number a row")


def _example(folder: Path, manifest: Mapping[str, Any], features: tuple[str, ...]) -> list[list[Any]]:
    """The rows of MLflow's input example (split orientation) in `features` order, none if there is no example."""
    info = manifest.get("saved_input_example_info") or {}
    path = _file(folder, info.get("artifact_path", "input_example.json"))
    if path is None:
        return []
    try:
        example = json.loads(path.read_text("utf-8"))
        columns = list(example.get("columns", features))
        places = [columns.index(name) for name in features]
        return [[row[i] for i in places] for row in example["data"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RefusedError(f"{path.name} is no input example of these columns: {error!r}") from error

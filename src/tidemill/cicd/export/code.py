"""What every export has: the model, the code that scores with it, and what it needs; an adapter adds the framework's own files."""

from __future__ import annotations

import json
import keyword
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tidemill.core.errors import ConflictError, InvalidError
from tidemill.registry.ports import ModelVersion

_ONNX = (
    """import os

# official builds report usage to their maker unless this is set before they are loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime  # noqa: E402""",
    """_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), _options, providers=["CPUExecutionProvider"])
_input = _session.get_inputs()[0]


def _scores(x):
    out = _session.run(None, {_input.name: x.astype(np.float32 if _input.type == "tensor(float)" else np.float64)})[-1]
    return out if out.ndim == 1 else out[:, -1]""",
)
_XGBOOST = (
    "import xgboost",
    """_booster = xgboost.Booster()
_booster.load_model(str(FOLDER / "model.ubj"))
_booster.set_param({"nthread": 1})


def _scores(x):
    return _booster.inplace_predict(x, missing=np.nan, validate_features=False)""",
)
_SKLEARN = (
    "import skops.io",
    """# the types that the model may hold; skops refuses others
_model = skops.io.load(FOLDER / "model.skops", trusted=@TRUSTED@)


def _scores(x):
    return _model.predict_proba(x)[:, 1] if hasattr(_model, "predict_proba") else _model.predict(x)""",
)
_SCORING = '''"""Scores rows by @URI@ of service @SERVICE@. Written by `tidemill export`; needs nothing but what requirements.txt names."""

import json
from pathlib import Path

import numpy as np
@IMPORT@

FOLDER = Path(__file__).resolve().parent / "model"
_facts = json.loads((FOLDER / "tidemill.json").read_text(encoding="utf-8"))
FEATURES = tuple(_facts["features"])
"""The model's columns, in order."""
TEXTS = frozenset(_facts["categories"])
_CODES = {name: {value: float(code) for code, value in enumerate(values)} for name, values in _facts["categories"].items()}

@LOAD@


def matrix(rows):
    """Rows, each a mapping from column to value, as the model sees them: texts by code (unknown or null: -1), nulls NaN."""
    x = np.empty((len(rows), len(FEATURES)), dtype=np.float64)
    for i, row in enumerate(rows):
        if missing := [name for name in FEATURES if name not in row]:
            raise ValueError(f"row {i} lacks {', '.join(missing)}")
        if extra := sorted(set(row) - set(FEATURES)):
            raise ValueError(f"row {i} has {', '.join(extra)}, which the model does not know; it takes {', '.join(FEATURES)}")
        for j, name in enumerate(FEATURES):
            value = row[name]
            if name in TEXTS:
                x[i, j] = _CODES[name].get(value, -1.0)
            elif value is None or isinstance(value, (int, float, np.number)):
                x[i, j] = np.nan if value is None else value
            else:
                raise ValueError(f"column {name} of row {i} takes numbers, not {type(value).__name__}")
    return x


def predict(rows):
    """One score a row."""
    return [float(score) for score in _scores(matrix(rows))] if rows else []
'''
_DOCKERFILE = """ARG BASE=python:{python}-slim
FROM ${{BASE}}
RUN useradd --uid 10001 --create-home app
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY . .
USER 10001
EXPOSE {port}
ENTRYPOINT {entry}
CMD {command}
"""


@dataclass(frozen=True, slots=True)
class Export:
    """What a framework's files are written from. `example` is one row by column, as a client would send it."""

    service: str
    version: ModelVersion
    model: Path
    features: tuple[str, ...]
    texts: frozenset[str]
    example: Mapping[str, Any]
    library: tuple[str, str]
    packages: tuple[str, ...]


Framework = Callable[[Export], Mapping[str, str]]
"""An adapter's `files`: names and texts, `requirements.txt` among them with the framework's own needs."""


def export_of(service: str, version: ModelVersion, model: Path, trusted: Sequence[str]) -> Export:
    """Look at a model directory. `trusted` are the types that a scikit-learn model may hold. Raises `InvalidError` for a model that is a function."""
    facts = json.loads((model / "tidemill.json").read_text("utf-8"))
    library, packages = _library(model, version, trusted)
    features = tuple(facts["features"])
    kept = facts.get("meta", {}).get("example") or [[None] * len(features)]
    pins = tuple(f"{name}=={metadata.version(name)}" for name in packages)
    return Export(
        service, version, model, features, frozenset(facts["categories"]), dict(zip(features, kept[0], strict=True)), library, pins
    )


def _library(model: Path, version: ModelVersion, trusted: Sequence[str]) -> tuple[tuple[str, str], tuple[str, ...]]:
    if (model / "model.onnx").is_file():
        return _ONNX, ("numpy", "onnxruntime")
    if (model / "model.ubj").is_file():
        known = {d.metadata["Name"] for d in metadata.distributions()}
        return _XGBOOST, ("numpy", "xgboost-cpu" if "xgboost-cpu" in known else "xgboost")
    if (model / "model.skops").is_file():
        return (_SKLEARN[0], _SKLEARN[1].replace("@TRUSTED@", repr(list(trusted)))), ("numpy", "scikit-learn", "skops")
    raise InvalidError(
        f"{version.uri} is a {version.meta.get('flavor', 'model')} whose code is the project's own; `tidemill build` takes the project along"
    )


def write_export(export: Export, framework: Framework, into: Path) -> list[str]:
    """Write the application into the new or empty folder `into`; the names of its files. Raises `ConflictError`."""
    if into.exists() and any(into.iterdir()):
        raise ConflictError(f"{into} is not empty; name a new folder")
    given = dict(framework(export))
    needs = given.pop("requirements.txt", "")
    texts = {
        "scoring.py": _filled(_SCORING, URI=export.version.uri, SERVICE=export.service, IMPORT=export.library[0], LOAD=export.library[1]),
        "requirements.txt": needs + "".join(f"{pin}\n" for pin in export.packages),
        "model.digest": export.version.digest + "\n",
        **given,
    }
    into.mkdir(parents=True, exist_ok=True)
    shutil.copytree(export.model, into / "model", copy_function=shutil.copyfile)
    for name, text in texts.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
    return sorted(texts)


def _filled(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def identifier(text: str, *, capital: bool = False) -> str:
    """A Python name made of a text."""
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in text).strip("_") or "model"
    name = f"m_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
    return "".join(part.capitalize() for part in name.split("_")) if capital else name


def dockerfile(port: int, entry: Sequence[str], command: Sequence[str]) -> str:
    """A Dockerfile of an export: not root, ENTRYPOINT and CMD apart."""
    python = ".".join(platform.python_version_tuple()[:2])
    return _DOCKERFILE.format(python=python, port=port, entry=json.dumps(list(entry)), command=json.dumps(list(command)))


def manifest(document: Mapping[str, Any]) -> str:
    """A Kubernetes object as YAML."""
    return yaml.safe_dump(document, sort_keys=False)

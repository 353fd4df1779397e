"""Models as MLflow Model directories: what a library made of them, and what they expect.

A directory depends on the model alone: the same model packs to the same bytes, whenever and wherever. So the creation time in it is the
instant that its training set reaches to, and its uuid is made from its content.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tidemill.core import digests
from tidemill.core.errors import InvalidError
from tidemill.core.instants import from_us
from tidemill.training.flavors import flavor_of
from tidemill.training.ports import Matrix, Model, Packed

_MLFLOW = "3.0.0"
_KEPT = ("service", "rows", "trained_from_us", "trained_to_us", "holdout_us", "dataset", "views")


def pack_model(model: Model, folder: Path) -> dict[str, Any]:
    """Write `model` as an MLflow Model directory into the empty `folder`.

    Returns:
        What `tidemill.json` in it says: features, categories, params, what the flavor measured …

    Raises:
        InvalidError: the model cannot be packed.
        RefusedError: it answers otherwise once packed.
    """
    example = _encoded(model, list(model.meta.get("example", ())))
    packed = flavor_of(model.flavor).pack(model, example)
    facts = {**_facts(model), **packed.facts}
    files: dict[str, bytes] = {
        **packed.files,
        "tidemill.json": _json(facts),
        "input_example.json": _json({"columns": list(model.features), "data": _finite(example)}),
        **_environment(packed.packages),
    }
    files["MLmodel"] = _mlmodel(model, packed, files)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return facts


def read_model(folder: Path, meta: Mapping[str, Any] | None = None) -> Model:
    """The model of a directory that `pack_model` wrote. Raises `InvalidError` for others."""
    try:
        facts = json.loads((folder / "tidemill.json").read_bytes())
        native = (folder / flavor_of(facts["flavor"]).native).read_bytes()
        categories = {name: tuple(values) for name, values in facts["categories"].items()}
        return Model(
            facts["flavor"], native, tuple(facts["features"]), categories, facts["params"], facts["trained_until_us"], meta or facts["meta"]
        )
    except (OSError, KeyError, ValueError) as error:
        raise InvalidError(f"{folder.name} is no model directory of Tidemill's: {error}") from error


def _facts(model: Model) -> dict[str, Any]:
    return {
        "flavor": model.flavor,
        "features": list(model.features),
        "categories": {name: list(values) for name, values in model.categories.items()},
        "params": dict(model.params),
        "trained_until_us": model.trained_until_us,
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


def _mlmodel(model: Model, packed: Packed, files: Mapping[str, bytes]) -> bytes:
    """The MLmodel file: the flavors, and the signature of the encoded inputs."""
    body = digests.of_tree({name: digests.of_bytes(data) for name, data in files.items()})
    inputs = [{"type": "double", "name": name, "required": True} for name in model.features]
    document = {
        "flavors": {name: dict(flavor) for name, flavor in packed.flavors.items()},
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


def _environment(packages: Sequence[str]) -> dict[str, bytes]:
    """The three files in which MLflow looks for what a model needs."""
    pins = [f"{name}=={metadata.version(name)}" for name in packages if _installed(name)]
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

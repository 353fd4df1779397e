"""On-demand features as Feast's on-demand feature views.

Feast keeps the text of a function and runs it without the file around it, so each has all that it needs inside.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.adapters.feast.closure import Module
from tidemill.adapters.feast.spelling import feast_type, q, variable
from tidemill.core.definitions import Definitions, FeatureView, OnDemand
from tidemill.core.errors import InvalidError
from tidemill.features.ports import AT

_COLUMN = '''def column(values):
    """Numbers as float64 with NaN, times as datetime64[us], texts as objects with None."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return np.asarray(values, dtype="datetime64[us]")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([None if v is None or v != v else v for v in values], dtype=object)'''
_TYPES = {"f": "Float64", "i": "Int64", "u": "Int64", "b": "Bool", "O": "String", "U": "String", "M": "UnixTimestamp"}


@dataclass(slots=True)
class Made:
    """One on-demand feature view: its outputs by full name (with Feast's name and type), and what it reads."""

    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    views: dict[str, None] = field(default_factory=dict)
    request: bool = False


@dataclass(slots=True)
class Exported:
    """What became of the on-demand features.

    `request`: type of each request column. `steps`: how each feature is computed; `code`: the functions behind it, by name, in an
    order that runs.
    """

    views: dict[str, Made] = field(default_factory=dict)
    request: dict[str, str] = field(default_factory=dict)
    guessed: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    steps: dict[str, list[str]] = field(default_factory=dict)
    code: dict[str, dict[str, str]] = field(default_factory=dict)

    def place(self, full: str) -> tuple[str, str]:
        """The variable of the view that has a feature, and the feature's name in it."""
        owner = next(name for name, made in self.views.items() if full in made.outputs)
        return f"{owner}_on_demand", self.views[owner].outputs[full][0]

    def declared(self) -> Iterator[str]:
        """Lines of definitions.py."""
        if self.request:
            fields = ", ".join(f'Field(name="{name}", dtype={kind})' for name, kind in self.request.items())
            yield f'request = RequestSource(name="request", schema=[{fields}])\n'
        for owner, made in self.views.items():
            sources = [*(variable("view", v) for v in made.views), *(["request"] if made.request else [])]
            fields = ", ".join(f'Field(name="{name}", dtype={kind})' for name, kind in made.outputs.values())
            yield f'\n@on_demand_feature_view(name="{owner}", sources=[{", ".join(sources)}], schema=[{fields}], mode="pandas")'
            yield f"def {owner}_on_demand(inputs: pd.DataFrame) -> pd.DataFrame:"
            yield from (f"    {line}".rstrip() for line in self._body(made))

    def _body(self, made: Made) -> Iterator[str]:
        code = {name: text for full in made.outputs for name, text in self.code[full].items()}
        yield from sorted({"import numpy as np", "import pandas as pd", *(t for t in code.values() if t.startswith(("import ", "from ")))})
        for text in (_COLUMN, *(t for t in code.values() if not t.startswith(("import ", "from ")))):
            yield from ("", *text.splitlines())
        yield from ("", "made = {}")
        yield from dict.fromkeys(step for full in made.outputs for step in self.steps[full])
        results = ", ".join(f"{q(name)}: made[{q(full)}]" for full, (name, _) in made.outputs.items())
        yield f"return pd.DataFrame({{{results}}}, index=inputs.index)"


def export_functions(
    features: Sequence[OnDemand], definitions: Definitions, views: Sequence[FeatureView], project: Path, types: Mapping[str, pa.DataType]
) -> Exported:
    """Turn on-demand features into Feast's.

    Args:
        features: which.
        definitions: all there are; one may read others.
        views: the feature views that are exported.
        project: the folder whose files define the functions.
        types: types of the tables' columns by name, for request columns.
    """
    exported = Exported()
    columns = {
        v.full_name(a): (v.name, types.get(str(a.column)) if a.kind == "latest" else pa.float64()) for v in views for a in v.aggregates
    }
    for feature in features:
        try:
            _export(feature, exported, definitions, columns, project, types)
        except InvalidError as error:
            exported.refused.append((feature.name, str(error)))
    return exported


def _export(
    feature: OnDemand,
    exported: Exported,
    definitions: Definitions,
    columns: Mapping[str, tuple[str, pa.DataType | None]],
    project: Path,
    types: Mapping[str, pa.DataType],
) -> None:
    owner, _, short = feature.name.rpartition("__")
    reads, steps, samples = dict[str, None](), list[str](), dict[str, npt.NDArray[Any]]()
    asked, code = dict[str, str](), dict[str, str]()
    for each in _ordered(feature, definitions):
        for name in each.inputs:
            if name in samples:
                continue
            if name == AT:
                raise InvalidError("it reads 'at', the time of the request, which Feast does not hand to functions")
            if name in columns:
                reads[columns[name][0]] = None
                samples[name] = _sample(columns[name][1])
            elif "__" in name and name.partition("__")[0] in definitions.views:
                raise InvalidError(f"it reads {name!r}, which is not exported")
            else:
                asked[name] = _request_type(name, types, exported)
                samples[name] = _sample(types.get(name))
            steps.append(f"made[{q(name)}] = column(inputs[{q(name)}])")
        _take(each, project, code)
        samples[each.name] = _tried(each, samples)
        given = ", ".join(f"made[{q(name)}]" for name in each.inputs)
        steps.append(f"made[{q(each.name)}] = {each.function.__name__}({given})")
    made = exported.views.setdefault(owner or short, Made())
    made.outputs[feature.name] = (short, _TYPES.get(samples[feature.name].dtype.kind, "String"))
    made.views |= reads
    made.request = made.request or bool(asked)
    exported.request |= asked
    exported.steps[feature.name], exported.code[feature.name] = steps, code


def _ordered(feature: OnDemand, definitions: Definitions) -> list[OnDemand]:
    """A feature behind those that it reads."""
    out: list[OnDemand] = []
    for name in feature.inputs:
        if name in definitions.on_demand:
            out += [f for f in _ordered(definitions.on_demand[name], definitions) if f not in out]
    return [*out, feature]


def _take(feature: OnDemand, project: Path, code: dict[str, str]) -> None:
    file = inspect.getsourcefile(inspect.unwrap(feature.function))
    if file is None or not Path(file).resolve().is_relative_to(project.resolve()):
        raise InvalidError(f"its source is not a file of the project ({file})")
    for name, text in Module(Path(file), project).function(feature.function.__name__):
        if re.search(r"^(?:import|from) tidemill\b", text):
            raise InvalidError(f"it uses {name!r} of Tidemill, which a Feast repository does not have")
        if code.setdefault(name, text) != text:
            raise InvalidError(f"two files of the project define {name!r} differently")


def _request_type(name: str, types: Mapping[str, pa.DataType], exported: Exported) -> str:
    kind = feast_type(types[name]) if name in types else None
    if kind is None and name not in exported.guessed:
        exported.guessed.append(name)
    return kind or "Float64"


def _sample(kind: pa.DataType | None) -> npt.NDArray[Any]:
    """One value of a column as on-demand functions see it."""
    if kind is not None and pa.types.is_timestamp(kind):
        return np.array(["2024-01-01T12:00:00"], dtype="datetime64[us]")
    if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.array(["a"], dtype=object)
    return np.array([1.0])


def _tried(feature: OnDemand, samples: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    try:
        return np.asarray(feature(*(samples[name] for name in feature.inputs)))
    except Exception as error:
        raise InvalidError(f"it cannot be tried on a sample, so its type is unknown: {type(error).__name__}: {error}") from error

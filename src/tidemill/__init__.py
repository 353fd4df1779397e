"""Tidemill runs the whole machine-learning lifecycle as one closed loop.

A project's `definitions.py` needs nothing but this module: `import tidemill as tm`. Names are resolved when they are first used
(PEP 562), so that importing costs milliseconds. `__all__` are the words that most definitions use; further aggregates (`std`, `first`, `last`,
`distinct`, `quantile`, `top_k`, `expression`) and what a graph is made of (`sequence`, `ensemble`, `switch`, `splitter`, `model`, `function`)
resolve as well, and so does what stands inside a step:
ranges of a search (`integer`, `real`, `log`, `choice`), the types of annotations (`TrainingSet`, `Model`, `ModelVersion`, `Instant`) and the
helpers of learners (`encode`, `deterministic`, `lightgbm_model`, `onnx_model`, `xgboost_model`,
`sklearn_model`, `torch_model`, `function_model`).
"""

from importlib import import_module
from os import environ as _environ
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.adapters.function.training import function_model as function_model
    from tidemill.adapters.sklearn.training import sklearn_model as sklearn_model
    from tidemill.adapters.torch.training import torch_model as torch_model
    from tidemill.adapters.xgboost.training import xgboost_model as xgboost_model
    from tidemill.core.aggregates import count as count
    from tidemill.core.aggregates import distinct as distinct
    from tidemill.core.aggregates import expression as expression
    from tidemill.core.aggregates import first as first
    from tidemill.core.aggregates import last as last
    from tidemill.core.aggregates import latest as latest
    from tidemill.core.aggregates import max_ as max  # noqa: A004
    from tidemill.core.aggregates import mean as mean
    from tidemill.core.aggregates import min_ as min  # noqa: A004
    from tidemill.core.aggregates import quantile as quantile
    from tidemill.core.aggregates import std as std
    from tidemill.core.aggregates import sum_ as sum  # noqa: A004
    from tidemill.core.aggregates import top_k as top_k
    from tidemill.core.definitions import Entity as Entity
    from tidemill.core.definitions import FeatureService as FeatureService
    from tidemill.core.definitions import FeatureView as FeatureView
    from tidemill.core.definitions import Gate as Gate
    from tidemill.core.definitions import Label as Label
    from tidemill.core.definitions import Rollout as Rollout
    from tidemill.core.definitions import Service as Service
    from tidemill.core.definitions import Table as Table
    from tidemill.core.definitions import every as every
    from tidemill.core.definitions import on_demand as on_demand
    from tidemill.core.definitions import on_drift as on_drift
    from tidemill.core.definitions import on_new_data as on_new_data
    from tidemill.core.definitions import on_quality as on_quality
    from tidemill.core.graphs import ensemble as ensemble
    from tidemill.core.graphs import function as function
    from tidemill.core.graphs import model as model
    from tidemill.core.graphs import sequence as sequence
    from tidemill.core.graphs import splitter as splitter
    from tidemill.core.graphs import switch as switch
    from tidemill.core.instants import Instant as Instant
    from tidemill.pipelines import pipeline as pipeline
    from tidemill.pipelines import step as step
    from tidemill.registry import register as register
    from tidemill.registry.ports import ModelVersion as ModelVersion
    from tidemill.training import deterministic as deterministic
    from tidemill.training import encode as encode
    from tidemill.training import evaluate as evaluate
    from tidemill.training import holdout as holdout
    from tidemill.training import lightgbm_model as lightgbm_model
    from tidemill.training import onnx_model as onnx_model
    from tidemill.training import training_set as training_set
    from tidemill.training.ports import Model as Model
    from tidemill.training.ports import TrainingSet as TrainingSet
    from tidemill.tuning import choice as choice
    from tidemill.tuning import integer as integer
    from tidemill.tuning import log as log
    from tidemill.tuning import real as real
    from tidemill.tuning import tune as tune

__version__ = "0.1.0"

# ONNX Runtime's own builds for Linux, from 1.29 on, report usage and models' names to their maker unless this is set before they are loaded
_environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [  # noqa: RUF022 - in the order in which a definition uses them
    "Entity",
    "Table",
    "FeatureView",
    "Label",
    "Service",
    "Gate",
    "Rollout",
    "mean",
    "sum",
    "count",
    "min",
    "max",
    "latest",
    "on_demand",
    "step",
    "pipeline",
    "training_set",
    "tune",
    "holdout",
    "evaluate",
    "register",
    "on_drift",
    "on_quality",
    "on_new_data",
    "every",
]

_MODULES = {
    "tidemill.adapters.function.training": "function_model",
    "tidemill.adapters.sklearn.training": "sklearn_model",
    "tidemill.adapters.torch.training": "torch_model",
    "tidemill.adapters.xgboost.training": "xgboost_model",
    "tidemill.core.aggregates": "mean sum count min max latest std first last distinct quantile top_k expression",
    "tidemill.core.definitions": "Entity Table FeatureView FeatureService Label Service Gate Rollout on_demand on_drift on_quality on_new_data"
    " every",
    "tidemill.core.graphs": "sequence ensemble switch splitter model function",
    "tidemill.core.instants": "Instant",
    "tidemill.pipelines": "step pipeline",
    "tidemill.registry": "register",
    "tidemill.registry.ports": "ModelVersion",
    "tidemill.training": "training_set holdout evaluate encode deterministic lightgbm_model onnx_model",
    "tidemill.training.ports": "TrainingSet Model",
    "tidemill.tuning": "tune integer real log choice",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
_SPELLED = {"sum": "sum_", "min": "min_", "max": "max_"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        value = getattr(import_module(_HOME[name]), _SPELLED.get(name, name))
    except ModuleNotFoundError as error:
        if not _HOME[name].startswith("tidemill.adapters."):
            raise
        extra = _HOME[name].split(".")[2]
        raise ImportError(f"tidemill.{name} needs an extra: pip install 'tidemill[{extra}]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

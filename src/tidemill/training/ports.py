"""Training sets, models and where training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Rows to learn from, in time order.

    `table` holds `id` (the spine's key), `at`, the feature columns and `label` (float64, never null). `features` are the model's input
    columns in order; `categories` maps each text column to its values in code order. `snapshots` maps each source table to the snapshot read.
    `holdout_us`: where `holdout` cut it. Neither `snapshots` nor `meta` (how it came about) are part of its content or digest.
    """

    service: str
    table: pa.Table
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    until_us: int
    snapshots: Mapping[str, int] = field(default_factory=dict)
    holdout_us: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A fitted model: the native bytes, how to call them, and what they expect.

    `flavor` names the library (`lightgbm`); `native` is the library's own portable serialisation. Texts are coded by `categories`
    (unknown or null: -1) and everything reaches the model as float64 columns in `features` order, nulls as NaN.
    """

    flavor: str
    native: bytes
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    params: Mapping[str, Any] = field(default_factory=dict)
    trained_until_us: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """What a library's model becomes in an MLflow Model directory.

    `files` by name; `flavors` as MLmodel lists them; `packages` whose versions the model needs; `facts` for `tidemill.json`.
    """

    files: Mapping[str, bytes]
    flavors: Mapping[str, Mapping[str, Any]]
    packages: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Flavor(Protocol):
    """One library's models: how they are scored, and kept. Chosen by `Model.flavor`; adapters register theirs under `tidemill.flavors`.

    Guarantees, each checked by `tidemill.testing.training.FlavorContract`:
        same: a packed model reads back and scores bit by bit as before.
        equal: an equal model packs to equal files.
        refused: bytes that are no such model are an `InvalidError`.
    """

    native: str
    """The file that holds `Model.native`."""

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """Scores (n,) of encoded inputs (n, features): for a classifier the probability of 1."""
        ...

    def pack(self, model: Model, example: Matrix) -> Packed:
        """The model's files. `example` are encoded rows that it must be able to answer. Raises `InvalidError`, `RefusedError`."""
        ...


class Trainer(Protocol):
    """Finds a place for work that needs resources.

    Guarantees, each checked by `tidemill.testing.training.TrainerContract`:
        apart: the work runs in processes of its own, at lower priority than serving.
        faithful: it returns what the function returns, or raises what it raised.
        contained: a killed worker is an `UnavailableError`, and the caller lives on.
    """

    def run(self, function: Callable[..., Any], args: Sequence[Any], *, cpus: float = 1.0, timeout_s: float | None = None) -> Any:
        """Call an importable `function(*args)` there and wait."""
        ...


class TrainingSource(Protocol):
    """Makes training sets from published tables, features and labels.

    Guarantees, each checked by `tidemill.testing.training.TrainingSourceContract`:
        timeless: the set for a past instant is the same whatever became known after it.
        labelled: every row has a label that was known by then, in time order.
        leak-free: a row stands in the set as it was known at its own time `at`, and no row is of a later time.
        versioned: equal `versions` mean an equal set.
    """

    def frame(self, service: str, until_us: int, *, tag: str = "") -> TrainingSet:
        """Rows of a service's spine with `at` <= `until_us`, their features and labels. A `tag` keeps the snapshots read. Raises `NotFoundError`, `InvalidError` when there is no such row."""
        ...

    def versions(self, service: str, until_us: int) -> Mapping[str, Any]:
        """What `frame` would read now: snapshot ids, a digest of the labels, the definitions of the features."""
        ...


class Evaluator(Protocol):
    """Splits rows in time and measures models on them: what a search over parameters needs from training."""

    def split(self, rows: TrainingSet, share: float) -> tuple[TrainingSet, TrainingSet]:
        """The rows before, and those in, the last `share` of their days."""
        ...

    def measure(self, model: Model, rows: TrainingSet) -> Mapping[str, float]:
        """Quality of a model on rows: log_loss, brier, auc, n."""
        ...

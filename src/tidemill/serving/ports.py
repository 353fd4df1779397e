"""Loading models, routing requests to them and remembering every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError, RefusedError

Role = Literal["shadow", "canary", "live"]
Part = Role | Literal["warm"]
"""What a deployment does; `warm` keeps what was live before loaded, ready to answer again."""
Matrix = npt.NDArray[np.float64]


class LoadedModel(Protocol):
    """A model in memory. `features` are its input columns in order, `texts` those of them that take text, `categories` the values behind their codes.

    `apart`: it runs in another process. `platform`: what answers, as the Open Inference Protocol's metadata call it.
    """

    features: tuple[str, ...]
    texts: frozenset[str]
    categories: Mapping[str, Sequence[str]] = MappingProxyType({})
    apart: bool = False
    platform: str = ""

    def predict(self, rows: Sequence[Sequence[Any]]) -> npt.NDArray[np.float64]:
        """Scores of rows given as values in `features` order (texts, numbers, None); one float64 a row."""
        ...

    def score(self, x: Matrix) -> Matrix:
        """Scores (n,) of rows as the model sees them; see `Scoring`."""
        return self.predict(x)  # type: ignore[arg-type]

    def explain(self, rows: Sequence[Sequence[Any]]) -> Matrix:  # noqa: ARG002 - a model that can has its own
        """What each feature adds to the answers of rows, (n, features + 1); see `Scoring`. Raises `InvalidError` when the model cannot say."""
        raise InvalidError("this model cannot say what its features contribute; tree models of LightGBM and XGBoost can")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model folder in which nothing was found that runs code. `flavor`: what MLmodel says of the one that is read, `texts` those `features` that are coded."""

    folder: Path
    flavor: Mapping[str, Any]
    features: tuple[str, ...]
    categories: Mapping[str, Sequence[str]]

    def file(self, name: Any, default: str) -> Path:
        """The file that the flavor names. Raises `RefusedError` when it is not in the folder."""
        path = (self.folder / str(name or default)).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise RefusedError(f"MLmodel points at {name!r}, outside the model folder")
        if not path.is_file():
            raise RefusedError(f"the model folder lacks {path.name}, which MLmodel names")
        return path


@dataclass(frozen=True, slots=True)
class Scoring:
    """How an artifact answers. Matrices are (n, features) float64, texts as codes (unknown or null: -1), nulls NaN.

    `score` gives (n,) float64. `explain`, where the library can, gives what each feature adds to the answer before its link function:
    (n, features + 1), the last column is what the model says without knowing anything.
    """

    score: Callable[[Matrix], Matrix]
    explain: Callable[[Matrix], Matrix] | None = None
    apart: bool = False


class FlavorReader(Protocol):
    """Reads one of MLflow's flavors. A `Runtime` has one each; adapters register theirs under `tidemill.readers`, called with the `ModelPolicy`."""

    def read(self, artifact: Artifact) -> Scoring:
        """Open the artifact without executing anything of it. Raises `RefusedError`, `UnavailableError`."""
        ...


class Runtime(Protocol):
    """Loads model artifacts.

    Guarantees, each checked by `tidemill.testing.serving.RuntimeContract`:
        safe: nothing in an artifact is executed; a pickle is a `RefusedError` whatever its name.
        warmed: a model that cannot answer its own input example with finite numbers is a `RefusedError`.
        equal: one row and a batch of the same rows score the same.
    """

    def load(self, folder: Path) -> LoadedModel:
        """Load an MLflow Model directory whose digest the blob store has verified."""
        ...


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model version behind a service. `weight`: the share of requests it answers (0 for shadow and warm)."""

    id: str
    service: str
    model: str
    version: int
    digest: str
    role: Part
    weight: float
    since_us: int

    @property
    def answers_as(self) -> Role:
        """The role of what it answers when it is asked by its version."""
        return "shadow" if self.role == "warm" else self.role


class Router(Protocol):
    """Knows which deployments a service has and which of them answers a request.

    Guarantees, each checked by `tidemill.testing.serving.RouterContract`:
        sticky: the same id and deployments give the same answer.
        proportional: over many ids each deployment answers its weight, within three standard errors.
        atomic: a change of deployments is seen whole or not at all.
        monotone: a canary that grows keeps every id it had.
        shadows: shadows, and what is kept warm, are never chosen to answer.
    """

    def deployments(self, service: str) -> list[Deployment]:
        """All that are live, canary, shadow or kept warm now."""
        ...

    def choose(self, deployments: Sequence[Deployment], key: str) -> Deployment:
        """Who answers the request with this id, or of this entity. Raises `UnavailableError` when nothing is live."""
        ...


class Visit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One station of a graph's route. `node` is empty for the graph itself; `version` is a model's number, or the first digits of a digest of code.

    `model`: the registered name, empty for a function. `state`: empty, or how the node failed, `failed` or `timeout`.
    """

    node: str
    version: str
    model: str = ""
    state: str = ""


class Prediction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One scored row. `values` are the model's inputs in `columns` order as used; `shadow` scores by a deployment that did not answer have role shadow.

    `degraded`: empty, or what stood for features that could not be read, `default` or `last_known`. `route`: who was asked, where a graph answers.
    """

    id: str
    service: str
    model: str
    version: int
    role: Role
    at_us: int
    score: float
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    request: Mapping[str, Any] = msgspec.field(default_factory=dict)
    latency_us: int = 0
    degraded: str = ""
    route: tuple[Visit, ...] = ()


THIN = ("",)
"""The columns of a prediction whose inputs and request were archived; its one value is None."""


class PredictionLog(Protocol):
    """The durable record of predictions.

    Guarantees, each checked by `tidemill.testing.serving.PredictionLogContract`:
        durable: what `append` returned for survives a power cut (fsync), in groups.
        once: (service, id, version, role) is kept once; the first record stands.
        exact: values come back equal, floats bit by bit, None as None.
        ordered: `read` yields by time, then id.
        claimed: a claimed batch has the same name and rows until it is made thin, whoever asks, whatever was killed.
        thin: a thin row keeps id, version, role, time, score and latency, and is there once; its columns are `THIN`.
    """

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        """Store predictions. Raises `UnavailableError` (disk full …): then none is acknowledged.

        Those that are not `durable`, for which nobody waits, survive a killed process and not for sure a power cut.
        """
        ...

    def read(
        self, service: str, *, from_us: int = 0, until_us: int | None = None, roles: Iterable[Role] | None = None
    ) -> Iterator[Prediction]:
        """Predictions with from_us <= at_us < until_us."""
        ...

    def find(self, prediction_id: str) -> list[Prediction]:
        """All records of an id (the answer and its shadows), the answer first."""
        ...

    def scores(self, service: str, *, from_us: int = 0, until_us: int | None = None) -> Mapping[str, npt.NDArray[Any]]:
        """Columns id, version, role, at_us, score of the same rows, without inputs: arrays of one length."""
        ...

    def claim(self, service: str, *, until_us: int, limit: int) -> tuple[str, list[Prediction]]:
        """A batch of whole predictions to be archived elsewhere, and its name: one that is claimed already, else the oldest with at_us < until_us."""
        ...

    def thin(self, batch: str) -> None:
        """The rows of a claimed batch are safe elsewhere: make room. A batch that is thin already, or unknown, is no error."""
        ...

    def drop(self, service: str, *, before_us: int) -> int:
        """Forget all predictions with at_us < before_us; return how many."""
        ...

"""What the closed loop is handed: every port of the platform, the project's definitions and the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.cicd.ports import Builder
from tidemill.core.clock import Clock
from tidemill.core.definitions import Definitions, Trigger
from tidemill.core.instants import SECOND_US
from tidemill.features.ports import OfflineStore, StreamProcessor
from tidemill.ingestion.ports import Source
from tidemill.ledger.store import Ledger
from tidemill.monitoring.ports import AlertSink, LabelStore, MetricSink, MetricSource
from tidemill.pipelines.ports import Executor
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.serving import Keeping
from tidemill.serving.ports import PredictionLog, Router, Runtime
from tidemill.tracking.ports import Tracker
from tidemill.validation.ports import Audit, Profiler, SchemaStore
from tidemill.versioning.ports import BlobStore, TableStore

CauseKind = Literal["drift", "quality", "schedule", "new_data", "manual"]


class Metrics(MetricSink, MetricSource, Protocol):
    """Observations, written and read back."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run exists. `evidence` is what was seen when the trigger fired."""

    id: str
    kind: CauseKind
    service: str
    at_us: int
    evidence: Mapping[str, Any]
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A recorded outcome with its evidence; `reverses` names the decision it takes back."""

    id: str
    kind: str
    service: str
    subject: str
    outcome: str
    cause: Mapping[str, Any]
    evidence: Mapping[str, Any]
    actor: str
    at_us: int
    reverses: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HoldoutRows:
    """What a version is judged on: rows it was not trained on. `rows` are values in `columns` order, `labels` 0 or 1, all aligned.

    `prior` is the mean label of the training rows: what a constant answers, when there is no champion. `slices` maps a name to
    each row's group.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    labels: npt.NDArray[np.float64]
    at_us: npt.NDArray[np.int64]
    prior: float
    slices: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of what is served is verified in the background, and how often. `share` 0: nothing."""

    share: float = 0.01
    every_us: int = 15 * 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class Loop:
    """The platform as the loop sees it. `triggers` overrides the services' own (None: theirs).

    `launch` starts the run of a cause under the id `cause.run_id`, here or in another process; starting it again is harmless.
    `alone` is held while a service trains; it gives False when another process holds it, and ends with its process.
    `holdout` gives the rows that a version is judged on; `elsewhere` is this loop with the code of another
    folder and its tables pinned to snapshots. `writing` is this process's turn to write online state; `alerts` None: nobody is told. `mask` is how the log hides personal values.
    `followed`: whether a process follows streams; it then keeps online state fresh from published tables as well.
    """

    project: Path
    definitions: Definitions
    clock: Clock
    ledger: Ledger
    tables: TableStore
    blobs: BlobStore
    profiler: Profiler
    schemas: SchemaStore
    offline: OfflineStore
    processor: StreamProcessor
    registry: ModelRegistry
    tracker: Tracker
    executor: Executor
    router: Router
    runtime: Runtime
    log: PredictionLog
    labels: LabelStore
    metrics: Metrics
    builder: Builder
    sources: Mapping[str, Source]
    audit: Callable[[str, pa.Table], Audit]
    launch: Callable[[Loop, Cause], None]
    holdout: Callable[[ModelVersion], HoldoutRows]
    elsewhere: Callable[[Path, Mapping[str, int]], Loop]
    triggers: Sequence[Trigger] | None = None
    actor: str = "reconciler"
    alerts: AlertSink | None = None
    mask: Callable[[Any], Any] | None = None
    parity: Sampling = field(default_factory=Sampling)
    keeping: Keeping = field(default_factory=Keeping)
    writing: Callable[[], AbstractContextManager[None]] = nullcontext
    alone: Callable[[str], AbstractContextManager[bool]] = lambda _service: nullcontext(True)
    followed: Callable[[], bool] = lambda: False

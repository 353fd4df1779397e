"""What the closed loop is handed: every port of the platform, the project's definitions and the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from tidemill.cicd.ports import Builder
from tidemill.core.clock import Clock
from tidemill.core.definitions import Definitions, Trigger
from tidemill.features.ports import OfflineStore, StreamProcessor
from tidemill.ingestion.ports import Source
from tidemill.ledger.store import Ledger
from tidemill.monitoring.ports import LabelStore, MetricSink, MetricSource
from tidemill.pipelines.ports import Executor
from tidemill.registry.ports import ModelRegistry
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


@dataclass(frozen=True, slots=True)
class Loop:
    """The platform as the loop sees it. `triggers` overrides the services' own (None: theirs); `launch` starts the run of a cause, here or in another process."""

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
    triggers: Sequence[Trigger] | None = None
    actor: str = "reconciler"

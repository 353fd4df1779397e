"""Objects that need many ports at once: the executor with its codecs and resources, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Service, Trigger
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_duration
from tidemill.core.machine import processors
from tidemill.core.policy import ModelPolicy
from tidemill.core.privacy import private_columns
from tidemill.features import training_frame
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, from_json
from tidemill.monitoring.ports import LabelStore
from tidemill.pipelines.codecs import ArrayCodec, ArrowCodec, BytesCodec, JsonCodec
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.pipelines.ports import Codec, Executor
from tidemill.platform.lock import alone
from tidemill.registry import ModelVersionCodec
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.retraining import loop as stages
from tidemill.retraining.ports import Cause, HoldoutRows, Loop, Sampling
from tidemill.serving import Keeping
from tidemill.tracking.ports import Tracker
from tidemill.training import FrameSource, ModelCodec, ModelEvaluator, TrainingSetCodec
from tidemill.training.ports import Evaluator, Trainer, TrainingSet, TrainingSource
from tidemill.tuning.ports import Tuner
from tidemill.validation.ports import Profiler
from tidemill.versioning.ports import BlobStore, Scan, TableStore

if TYPE_CHECKING:
    from tidemill.platform.root import Platform


def frame_source(platform: Platform, pins: Mapping[str, int] | None = None) -> FrameSource:
    """Training sets from a platform's tables, features and labels. `pins` are snapshots to read instead of the newest ones, by table."""

    def frame(service: Service, spine: pa.Table, scans: Mapping[str, Scan]) -> pa.Table:
        return training_frame(service, spine, platform.offline, scans)

    return FrameSource(platform.definitions, frame, platform.tables, platform.labels, pins)


def make_executor(platform: Platform, pins: Mapping[str, int] | None = None) -> Executor:
    """The executor of a platform. `pins` are snapshots to read instead of the newest ones, by table."""
    resources: dict[type, Any] = {
        TrainingSource: frame_source(platform, pins),
        Evaluator: ModelEvaluator(),
        Tuner: platform.tuner,
        Trainer: platform.trainer,
        Tracker: platform.tracker,
        ModelRegistry: platform.registry,
        BlobStore: platform.blobs,
        TableStore: platform.tables,
        LabelStore: platform.labels,
        Profiler: platform.profiler,
        Ledger: platform.ledger,
        ModelPolicy: platform.policy,
    }
    codecs: list[Codec] = [
        TrainingSetCodec(),
        ModelCodec(platform.policy),
        ModelVersionCodec(platform.registry),
        ArrowCodec(),
        ArrayCodec(),
        BytesCodec(),
        JsonCodec(),
    ]
    return LocalExecutor(
        platform.ledger,
        platform.blobs,
        codecs,
        platform.clock,
        resources,
        platform.builder,
        project=platform.project,
        actor="local",
        # a replay serves nobody who waits; threads of several trainings would only wait for each other
        cores=max(1, processors() // (platform.lanes if isinstance(platform.clock, ReplayClock) else 2)),
    )


def make_loop(
    platform: Platform,
    triggers: Sequence[Trigger] | None,
    *,
    launch: Callable[[Loop, Cause], None] = stages.launch,
    pins: Mapping[str, int] | None = None,
) -> Loop:
    """The loop of a platform; runs are executed here unless `launch` says otherwise."""

    def elsewhere(folder: Path, pinned: Mapping[str, int]) -> Loop:
        other = platform.beside(folder) if folder != platform.project else platform
        return make_loop(other, triggers, pins=pinned)

    return Loop(
        project=platform.project,
        definitions=platform.definitions,
        clock=platform.clock,
        ledger=platform.ledger,
        tables=platform.tables,
        blobs=platform.blobs,
        profiler=platform.profiler,
        schemas=platform.schemas,
        offline=platform.offline,
        processor=platform.processor,
        registry=platform.registry,
        tracker=platform.tracker,
        executor=make_executor(platform, pins) if pins else platform.executor,
        router=platform.router,
        runtime=platform.runtime,
        log=platform.log,
        labels=platform.labels,
        metrics=platform.metrics,
        builder=platform.builder,
        sources=platform.sources,
        audit=platform.auditor,
        launch=launch,
        holdout=lambda version: holdout_rows(platform.ledger, platform.blobs, version),
        elsewhere=elsewhere,
        triggers=triggers,
        alerts=platform.alerts,
        parity=Sampling(platform.config.parity.share, parse_duration(platform.config.parity.every)),
        keeping=_keeping(platform),
        mask=platform.masker if any(map(private_columns, platform.definitions.services.values())) else None,
        writing=platform.writing,
        alone=lambda service: alone(platform.home / f"training-{service}.lock"),
        followed=lambda: _followed(platform),
    )


def _keeping(platform: Platform) -> Keeping:
    given = platform.config.serving
    return Keeping(parse_duration(given.log_hot), parse_duration(given.log_keep) if given.log_keep else 0)


def _followed(platform: Platform) -> bool:
    """Whether a process follows the project's streams; a project without any is not asked for."""
    if not platform.topics:
        return False
    with platform.following() as nobody:
        return not nobody


def holdout_rows(ledger: Ledger, blobs: BlobStore, version: ModelVersion) -> HoldoutRows:
    """The rows on which the version's run evaluated it, and the mean label of those it was trained on."""
    step = schema.step_run
    query = sa.select(step.c.inputs).where(step.c.run_id == version.run_id, step.c.step == "evaluate")
    with ledger.read() as db:
        inputs = from_json(db.execute(query.order_by(step.c.node.desc()).limit(1)).scalar())
    if not inputs or "rows" not in inputs:
        raise InvalidError(
            f"{version.uri} was never evaluated, so there is nothing to judge it on; end the pipeline with evaluate() and register()"
        )
    given = inputs["rows"]
    codec = TrainingSetCodec()
    rows: TrainingSet = codec.load(given if isinstance(given, dict) else {"digest": given}, blobs)
    trained: TrainingSet = codec.load({"digest": version.meta["dataset"]}, blobs)
    columns = [rows.table.column(name).to_pylist() for name in rows.features]
    return HoldoutRows(
        columns=rows.features,
        rows=list(zip(*columns, strict=True)),
        labels=rows.table.column("label").to_numpy().astype(np.float64),
        at_us=rows.table.column("at").cast(pa.int64()).to_numpy(),
        prior=float(trained.table.column("label").to_numpy().mean()),
    )

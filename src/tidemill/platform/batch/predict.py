"""Scores the rows of a table as the server would have answered each at its own time: same features, same functions, same model.

Three things go on at the same time: features of the next piece are joined, this one is scored on all cores, the one before has been written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import Definitions, Service
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError
from tidemill.core.graphs import graph_version
from tidemill.core.machine import processors
from tidemill.features import apply_on_demand, training_frame
from tidemill.features.ports import AT
from tidemill.platform.batch.graphs import ByGraph, nodes_now, own_version
from tidemill.platform.batch.job import Job
from tidemill.platform.frames import listed_groups
from tidemill.platform.lock import alone
from tidemill.registry.ports import ModelVersion
from tidemill.serving import Pins, compile_plan
from tidemill.serving.ports import LoadedModel, Matrix
from tidemill.training import SpinePieces, encode_columns, pieces
from tidemill.versioning.ports import Scan

if TYPE_CHECKING:
    from tidemill.platform.root import Platform

Progress = Callable[[int, int, str], None]
_SLICE = 8192


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch. Words that are equal mean the same batch, which goes on where it was killed.

    Attributes:
        service: whose plan and model.
        table: a table of the project (the service's spine when empty), or a Parquet or CSV file with a column `at`.
        to: a table, or a `.parquet` file; `predictions_SERVICE` when empty.
        version: of the model; the live one, or else the champion, when None.
        from_us: no row of an earlier time.
        until_us: no row of a later time; the present when None.
        rows: scored and written at a time.
    """

    service: str
    table: str = ""
    to: str = ""
    version: int | None = None
    from_us: int | None = None
    until_us: int | None = None
    rows: int = 250_000


def predict_batch(platform: Platform, asked: Asked, *, restart: bool = False, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Score rows and keep the scores: columns key, `at`, `score`, `model_version`, and `route` where a graph answers.

    Returns:
        What was done: rows, how many of them by an earlier, killed call, rates, where they are.

    Raises:
        NotFoundError: there is no such service, table, file or version.
        InvalidError: no row at such times, or the model was trained on other columns.
        ConflictError: the same batch is under way, or the table to write is one that the project ingests.
    """
    service = platform.definitions.service(asked.service or None)
    asked = replace(asked, service=service.name, table=asked.table or service.spine.name, to=asked.to or f"predictions_{service.name}")
    _check_target(platform, asked.to)
    job = Job(platform.home / "batch", asdict(asked))
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(job.folder.with_suffix(".lock")) as mine:
        if not mine:
            raise ConflictError("the same batch is under way in another process; wait for it, or stop it")
        return _predict(platform, job, asked, service, restart=restart, progress=progress)


def _predict(platform: Platform, job: Job, asked: Asked, service: Service, *, restart: bool, progress: Progress) -> dict[str, Any]:
    pins = None if restart else job.pins
    if pins is None:
        pins = _pins(platform, asked, service)
        job.begin(pins)
    by = _scoring(platform, service, pins)
    began = perf_counter()
    spine = _spine(platform, asked, by.service, pins)
    scans = {view.table.name: _scan(platform, view.table.name, pins) for view in by.service.views}
    done = _score_all(platform, job, spine, scans, by, progress)
    progress(spine.total, spine.total, "keeping the predictions")
    _deliver(platform, job, asked.to)
    took = perf_counter() - began
    job.forget()
    return {
        "service": service.name,
        "model_version": by.version,
        "table": asked.table,
        "to": asked.to,
        "rows": spine.total,
        **done,
        **({"failed_rows": by.failed} if by.failed else {}),
        "seconds": round(took, 3),
        "rows_per_second": round((spine.total - done["resumed_rows"]) / max(took, 1e-9)),
    }


def _check_target(platform: Platform, to: str) -> None:
    if to in platform.definitions.tables:
        raise ConflictError(f"table {to!r} is one that the project ingests; name another for the predictions, or a .parquet file")
    if "/" in to and not to.endswith(".parquet"):
        raise InvalidError(f"{to!r} is neither the name of a table nor a .parquet file")


def _pins(platform: Platform, asked: Asked, service: Service) -> dict[str, Any]:
    """What the batch reads, wherever the project goes meanwhile."""
    until = platform.clock.now_us() if asked.until_us is None else asked.until_us
    names = {view.table.name for view in service.views} | ({asked.table} & set(platform.definitions.tables))
    snapshots = {name: platform.tables.scan(name).snapshot_id for name in sorted(names)}
    pins = {"version": version_of(platform, service, asked.version), "until_us": until, "snapshots": snapshots}
    return pins if service.graph is None else pins | {"graph": graph_version(service.graph), "nodes": nodes_now(platform, service)}


def version_of(platform: Platform, service: Service, asked: int | None) -> int:
    """The version that is asked for; else the live one, else the champion. Raises `NotFoundError`."""
    if (none_of_its_own := own_version(service, asked)) is not None:
        return none_of_its_own
    if asked is not None:
        return platform.registry.get(service.name, asked).version
    live = next((d.version for d in platform.router.deployments(service.name) if d.role == "live"), None)
    try:
        return live if live is not None else platform.registry.get(service.name, "champion").version
    except NotFoundError as error:
        raise NotFoundError(f"no version of {service.name!r} is live or champion; train one, or name one with --model") from error


def _scan(platform: Platform, table: str, pins: Mapping[str, Any]) -> Scan:
    return platform.tables.scan(table, pins["snapshots"].get(table))


def _model(platform: Platform, service: Service, version: ModelVersion) -> tuple[LoadedModel, Service]:
    """The model, and the service with the versions of views that the model was trained on."""
    plan = compile_plan(service, platform.reader, apply_on_demand)
    planned = Pins(plan, platform.reader, apply_on_demand).plan_for(version.meta).service
    model = platform.runtime.load(platform.blobs.fetch(version.digest))
    if model.features != planned.columns:
        missing, more = sorted(set(model.features) - set(planned.columns)), sorted(set(planned.columns) - set(model.features))
        raise InvalidError(
            f"{version.uri} was trained on other columns than {service.name} has now"
            f"{'; it needs ' + ', '.join(missing) if missing else ''}{'; it does not know ' + ', '.join(more) if more else ''}"
        )
    return model, planned


class Scoring(Protocol):
    """How a batch is scored. `service` has the versions of views that its models read; `failed`: rows that have no score."""

    service: Service
    version: int
    failed: int

    def prepared(self, joined: pa.Table) -> tuple[Any, ...]:
        """What is scored, of rows with their features."""
        ...

    def scored(self, *prepared: Any) -> dict[str, pa.Array]:
        """Columns of scores; the last two arguments are the threads to use and how many rows a piece has."""
        ...


class _ByModel:
    """One model."""

    failed = 0

    def __init__(self, platform: Platform, service: Service, version: ModelVersion) -> None:
        self._model, self.service = _model(platform, service, version)
        self.version = version.version

    def prepared(self, joined: pa.Table) -> tuple[Matrix]:
        return (encode_columns(joined, self._model.features, self._model.categories),)

    def scored(self, x: Matrix, pool: Executor, _piece: int) -> dict[str, pa.Array]:
        return {"score": pa.array(scores_of(self._model, x, pool), pa.float64())}


def _scoring(platform: Platform, service: Service, pins: Mapping[str, Any]) -> Scoring:
    if service.graph is None:
        return _ByModel(platform, service, platform.registry.get(service.name, pins["version"]))
    if pins["graph"] != graph_version(service.graph):
        raise ConflictError(f"the graph of {service.name!r} has been defined anew since this batch began; --restart begins it anew")
    return ByGraph(platform, service, pins["version"], pins["nodes"])


class _Listed:
    """Rows of a file, as they stand; those of a Parquet file are read row group by row group."""

    def __init__(self, path: Path, there: Definitions, service: Service, asked: Asked, until_us: int) -> None:
        self._path, self._there, self._key, self._size = path, there, service.key, asked.rows
        self._from_us, self._until_us = asked.from_us, until_us
        self.total = sum(rows.num_rows for rows in self._kept([AT]))
        if not self.total:
            raise InvalidError(f"{str(path)!r} has no row at such times; choose others")

    def __iter__(self) -> Iterator[pa.Table]:
        return pieces(self._named(), self._size)

    def _kept(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for rows in listed_groups(self._path, self._there, columns):
            at = pc.cast(rows.column(AT), pa.int64())
            keep = pc.less_equal(at, self._until_us)
            yield rows.filter(keep if self._from_us is None else pc.and_(keep, pc.greater_equal(at, self._from_us)))

    def _named(self) -> Iterator[pa.Table]:
        start = 0
        for rows in self._kept():
            if rows.num_rows:
                ids = rows.column(self._key) if self._key in rows.column_names else pa.array(range(start, start + rows.num_rows))
                yield rows if "id" in rows.column_names else rows.append_column("id", ids.cast(pa.string()))
                start += rows.num_rows


def _spine(platform: Platform, asked: Asked, service: Service, pins: Mapping[str, Any]) -> SpinePieces | _Listed:
    tables = platform.definitions.tables
    if asked.table not in tables:
        return _Listed(Path(asked.table), platform.definitions, service, asked, pins["until_us"])
    table = tables[asked.table]
    about = replace(service, spine=table, lead=service.lead if table == service.spine else "")
    return SpinePieces(about, _scan(platform, table.name, pins), from_us=asked.from_us, until_us=pins["until_us"], rows=asked.rows)


def _score_all(
    platform: Platform, job: Job, spine: SpinePieces | _Listed, scans: Mapping[str, Scan], by: Scoring, progress: Progress
) -> dict[str, Any]:
    def prepared(piece: pa.Table) -> tuple[pa.Table, tuple[Any, ...]]:
        joined = training_frame(by.service, piece, platform.offline, scans)
        return joined.select(["id", AT]), by.prepared(joined)

    resumed, scored, seconds = 0, 0, 0.0
    with ThreadPoolExecutor(1) as joining, ThreadPoolExecutor(processors()) as scoring:
        for part, rows, ready in _ahead(job, spine, lambda piece: joining.submit(prepared, piece)):
            if ready is None:
                resumed += rows
                continue
            told, inputs = ready.result()
            began = perf_counter()
            job.keep(part, with_scores(told, by.scored(*inputs, scoring, _SLICE), by.service.key, by.version))
            seconds += perf_counter() - began
            scored += rows
            progress(resumed + scored, spine.total, f"{resumed + scored:,} of {spine.total:,} rows")
    return {"resumed_rows": resumed, "scoring_seconds": round(seconds, 3), "scored_per_second": round(scored / seconds) if seconds else 0}


def _ahead(job: Job, spine: SpinePieces | _Listed, start: Callable[[pa.Table], Any]) -> Iterator[tuple[int, int, Any]]:
    """Number, size and prepared rows of each piece (None for those that are done), the next one begun before this one is asked for."""
    before: tuple[int, int, Any] | None = None
    for part, piece in enumerate(spine):
        now = (part, piece.num_rows, None if job.has(part) else start(piece))
        if before is not None:
            yield before
        before = now
    if before is not None:
        yield before


def scores_of(model: LoadedModel, x: Matrix, pool: Executor) -> Matrix:
    """The model's scores of many rows, in slices on all cores."""
    edges = [*range(0, len(x), _SLICE), len(x)]
    return np.concatenate(list(pool.map(lambda ab: model.score(x[ab[0] : ab[1]]), pairwise(edges))))


def result_of(rows: pa.Table, scores: Matrix, key: str, version: int) -> pa.Table:
    """The rows that are kept: key, `at`, `score`, `model_version`."""
    return with_scores(rows, {"score": pa.array(scores, pa.float64())}, key, version)


def with_scores(rows: pa.Table, scores: Mapping[str, pa.Array], key: str, version: int) -> pa.Table:
    """The rows that are kept: key, `at`, `score`, `model_version`, and `route` where a graph answered."""
    more = {name: column for name, column in scores.items() if name != "score"}
    versions = pa.array(np.full(rows.num_rows, version, dtype=np.int64))
    return pa.table({key: rows.column("id"), AT: rows.column(AT), "score": scores["score"], "model_version": versions, **more})


def _deliver(platform: Platform, job: Job, to: str) -> None:
    if to.endswith(".parquet"):
        job.into_file(Path(to))
        return
    branch = f"batch-{job.id}"
    for name, rows in job.parts():
        platform.tables.create(to, rows.schema)
        platform.tables.append(to, rows, batch=f"{branch}-{name}", branch=branch)
    platform.tables.publish(to, branch)

"""The composition root: one project, one configuration, every port opened when it is first used.

Nothing else in Tidemill imports an `embedded` module or an adapter. A URL's scheme chooses what stands behind a port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tidemill.core.clock import Clock, WallClock
from tidemill.core.errors import ConfigError
from tidemill.core.instants import SECOND_US, parse_duration
from tidemill.core.policy import ModelPolicy
from tidemill.core.privacy import Masker, private_columns
from tidemill.platform.config import Config, load_config, split_url, triggers_from
from tidemill.platform.lock import alone, secret_key, turn
from tidemill.platform.project import find_project, load_definitions

if TYPE_CHECKING:
    import pyarrow as pa

    from tidemill.catalog.ports import Catalog
    from tidemill.cicd.ports import Builder
    from tidemill.core.definitions import Definitions
    from tidemill.features.ports import FeatureLookup, OfflineStore, OnlineStore, StreamProcessor, VersionedReader
    from tidemill.ingestion.ports import Source, Stream, Topic
    from tidemill.ledger.store import Ledger
    from tidemill.monitoring.ports import AlertSink, LabelStore
    from tidemill.pipelines.ports import Executor
    from tidemill.registry.ports import ModelRegistry
    from tidemill.retraining.loop import Auditor
    from tidemill.retraining.ports import Loop, Metrics
    from tidemill.serving.ports import PredictionLog, Router, Runtime
    from tidemill.serving.tracing import Tracer
    from tidemill.tracking.ports import Tracker
    from tidemill.training.ports import Trainer
    from tidemill.tuning.ports import Tuner
    from tidemill.validation.ports import Profiler, SchemaStore
    from tidemill.versioning.ports import BlobStore, TableStore

SHARED = ("tables", "blobs", "offline", "online", "processor", "labels", "profiler", "schemas", "runtime", "builder", "sources", "auditor")
"""What replayed policies have in common: data, features and labels, but no runs, models, decisions or predictions."""


class Platform:
    """A project with its stack. Attributes named after ports open them on first use; `close` lets go of all."""

    def __init__(self, project: Path, config: Config, clock: Clock) -> None:
        self.project = project
        self.config = config
        self.clock = clock
        self.home = Path(config.home)
        self.lanes = 1
        """How many policies go through history at the same time, sharing this machine's cores."""

    @classmethod
    def open(
        cls,
        project: Path | str = ".",
        overrides: Sequence[str] = (),
        *,
        clock: Clock | None = None,
        home: Path | None = None,
        share: Platform | None = None,
    ) -> Platform:
        """Open the project that holds `project`.

        Args:
            project: the folder with `definitions.py`, or one below it.
            overrides: Hydra overrides of the configuration.
            clock: the present when None.
            home: where the local stack keeps its files, instead of the configured place.
            share: a platform of the same project whose data, features and labels are used instead of own ones.

        Raises:
            NotFoundError: there is no project here.
            ConfigError: the configuration is wrong; names file and key.
        """
        root = find_project(Path(project))
        config = load_config(root, overrides, home=home)
        platform = cls(root, config, clock or WallClock())
        _furnish(platform.home)
        if share is not None:
            platform.__dict__.update({name: getattr(share, name) for name in (*SHARED, "definitions")})
        return platform

    def beside(self, folder: Path) -> Platform:
        """This platform with the code of another folder: same ledger, data and models, other definitions."""
        other = Platform(folder, self.config, self.clock)
        own = ("ledger", "registry", "tracker", "tuner", "trainer", "router", "log", "metrics", "catalog")
        other.__dict__.update({name: getattr(self, name) for name in (*SHARED, *own)})
        return other

    def _port(self, setting: str, *given: Any, **schemes: Callable[[str], Any]) -> Any:
        """Open what the URL of `setting` names: an embedded default, or an adapter registered under the scheme, called with URL and `given`."""
        url = getattr(self.config.stack, setting)
        adapters = {e.name: e for e in entry_points(group=f"tidemill.{setting}")}
        scheme, rest = split_url(url, f"stack.{setting}", sorted({*schemes, *adapters}))
        if scheme in schemes:
            return schemes[scheme](rest)
        return _opened(adapters[scheme], f"stack.{setting}", url, *given)

    def protocol(self, name: str, *given: Any) -> Any:
        """Open a server of another protocol beside the model server's HTTP. Raises `ConfigError` when its extra is not installed."""
        adapters = {e.name: e for e in entry_points(group="tidemill.protocol")}
        return _opened(adapters[name], f"serving.{name}_port", *given)

    @property
    def shared_name(self) -> str:
        """What names this project on servers that others use too: its folder, and its home unless that is `.tidemill`."""
        name = self.project.name
        return name if self.home == self.project / ".tidemill" else f"{name}~{self.home.name}"

    @cached_property
    def definitions(self) -> Definitions:
        """What the project defines, by name."""
        return load_definitions(self.project)

    @cached_property
    def ledger(self) -> Ledger:
        """The metadata store."""
        from tidemill.ledger.servers import schemes
        from tidemill.ledger.store import Ledger

        url = self.config.stack.ledger
        return self._port("ledger", **dict.fromkeys(("sqlite", *schemes()), lambda _rest: Ledger(url)))  # type: ignore[no-any-return]

    @cached_property
    def tables(self) -> TableStore:
        """Versioned tables."""
        from tidemill.versioning.embedded import IcebergTableStore

        def iceberg(path: str) -> TableStore:
            return IcebergTableStore(Path(path), f"sqlite:///{path}/catalog.db", self.clock)

        return self._port("tables", iceberg=iceberg)  # type: ignore[no-any-return]

    @cached_property
    def blobs(self) -> BlobStore:
        """Files by digest."""
        from tidemill.versioning.embedded import FileBlobStore

        return self._port("blobs", files=lambda path: FileBlobStore(Path(path)))  # type: ignore[no-any-return]

    @cached_property
    def catalog(self) -> Catalog:
        """Full-text search over what there is."""
        from tidemill.catalog.embedded import SqliteCatalog

        return self._port("catalog", sqlite=lambda path: SqliteCatalog(_file(path)))  # type: ignore[no-any-return]

    @cached_property
    def builder(self) -> Builder:
        """Captures the project's code."""
        from tidemill.cicd.embedded import GitBuilder

        return self._port("builder", git=lambda path: GitBuilder(Path(path)))  # type: ignore[no-any-return]

    @cached_property
    def profiler(self) -> Profiler:
        """Makes mergeable profiles."""
        from tidemill.validation.embedded import SketchProfiler

        return SketchProfiler()

    @cached_property
    def schemas(self) -> SchemaStore:
        """Curated table schemas."""
        from tidemill.validation.embedded import YamlSchemaStore

        return self._port("schemas", files=lambda path: YamlSchemaStore(self.project / path))  # type: ignore[no-any-return]

    @cached_property
    def auditor(self) -> Auditor:
        """Checks batches against the curated schemas."""
        from tidemill.retraining.loop import Auditor

        return Auditor(self.schemas, self.profiler, {name: table.personal for name, table in self.definitions.tables.items()})

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The source of each table that has one, by table name."""
        from tidemill.ingestion.embedded import open_source

        skew_us = parse_duration(self.config.stream.skew)
        return {
            name: open_source(table.sources, self.project, table, self.stream, topics=self.topics.get(name, {}), skew_us=skew_us)
            for name, table in self.definitions.tables.items()
            if table.sources
        }

    @cached_property
    def stream(self) -> Stream:
        """Pushed records, in order."""
        from tidemill.ingestion.embedded import LogStream

        return self._port("stream", self.shared_name, files=lambda path: LogStream(Path(path), self.clock))  # type: ignore[no-any-return]

    @cached_property
    def topics(self) -> dict[str, dict[str, Topic]]:
        """The topics that the events of tables come in, by table name and source URL: what is pushed, and what adapters open."""
        from tidemill.ingestion.ports import Topic
        from tidemill.ingestion.pushed import PUSHED

        adapters = {e.name: e for e in entry_points(group="tidemill.sources")}
        place = urlsplit(self.config.stack.stream)
        pushed = PUSHED if place.scheme == "files" else f"{PUSHED}@{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"
        found: dict[str, dict[str, Topic]] = {}
        for name, table in self.definitions.tables.items():
            for url in table.sources:
                scheme = url.partition(":")[0]
                if scheme == "push":
                    found.setdefault(name, {})[url] = Topic(self.stream, name, pushed)
                elif scheme in adapters:
                    found.setdefault(name, {})[url] = _opened(adapters[scheme], f"the source of table {name!r}", url)
        return found

    @contextmanager
    def following(self) -> Iterator[bool]:
        """Held by the process that follows streams; gives False when another one does."""
        with alone(self.home / "follower.lock") as mine:
            yield mine

    @cached_property
    def offline(self) -> OfflineStore:
        """Feature values of many rows at their own times."""
        from tidemill.features.embedded import DuckOfflineStore

        return self._port("offline", duckdb=lambda _rest: DuckOfflineStore(threads=1 if self.lanes > 1 else 2))  # type: ignore[no-any-return]

    @cached_property
    def online(self) -> OnlineStore:
        """State of features by key."""
        from tidemill.features.embedded import SqliteOnlineStore

        return self._port("online", self.shared_name, sqlite=lambda path: SqliteOnlineStore(_file(path)))  # type: ignore[no-any-return]

    @cached_property
    def processor(self) -> StreamProcessor:
        """Keeps online state fresh, and reads it."""
        from tidemill.features.embedded import ViewProcessor, lookup_in

        return ViewProcessor(self.online, self.definitions, lookup_in(lambda table: self.tables.scan(table)))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The turn of this process to write online state; others on this machine wait."""
        with turn(self.home / "online.lock"):
            yield

    @cached_property
    def reader(self) -> VersionedReader:
        """Reads online state that the processor of another process keeps fresh."""
        from tidemill.features.embedded import OnlineReader

        return OnlineReader(self.online, self.definitions)

    @cached_property
    def lookup(self) -> FeatureLookup:
        """Reads online state and what was pushed since, for a feature server."""
        from tidemill.features.embedded import OnlineLookup

        return OnlineLookup(self.online, self.definitions, self.stream, skew_us=parse_duration(self.config.stream.skew))

    @cached_property
    def tracker(self) -> Tracker:
        """Parameters and metrics of runs."""
        from tidemill.tracking.embedded import LedgerTracker

        return LedgerTracker(self.ledger)

    @cached_property
    def tuner(self) -> Tuner:
        """Hyperparameter search."""
        from tidemill.tuning.embedded import OptunaTuner

        return self._port("studies", sqlite=lambda path: OptunaTuner(Path(_file(path))))  # type: ignore[no-any-return]

    @cached_property
    def trainer(self) -> Trainer:
        """Finds a place for work that needs resources."""
        from tidemill.training.embedded import ProcessTrainer

        return self._port("trainer", processes=lambda _rest: ProcessTrainer(self.config.training.priority))  # type: ignore[no-any-return]

    @cached_property
    def registry(self) -> ModelRegistry:
        """Model versions and aliases."""
        from tidemill.registry.embedded import LedgerRegistry

        return LedgerRegistry(self.ledger, self.blobs)

    @cached_property
    def runtime(self) -> Runtime:
        """Loads model artifacts."""
        from tidemill.serving.embedded import OnnxRuntime

        readers = {e.name: partial(_opened, e, f"a model of flavor {e.name}", self.policy) for e in entry_points(group="tidemill.readers")}
        embedded = partial(OnnxRuntime, readers)
        return self._port("runtime", embedded, onnx=lambda _rest: embedded())  # type: ignore[no-any-return]

    @cached_property
    def policy(self) -> ModelPolicy:
        """What the loader of models trusts."""
        given = self.config.models
        python = str(self.project / given.python) if given.python else ""
        return ModelPolicy(given.trusted_types, str(self.project), python, given.processes, parse_duration(given.timeout) / SECOND_US)

    @cached_property
    def router(self) -> Router:
        """Who answers which request."""
        from tidemill.serving.embedded import LedgerRouter

        return LedgerRouter(self.ledger)

    @cached_property
    def log(self) -> PredictionLog:
        """The durable record of predictions; personal columns are in it as keyed hashes, older ones are read from their tables."""
        return self._log(ahead=False)

    @cached_property
    def server_log(self) -> PredictionLog:
        """The same as a model server writes to it: what it appends is put in order by whoever reads."""
        return self._log(ahead=True)

    def _log(self, *, ahead: bool) -> PredictionLog:
        from tidemill.serving import ArchivedLog, PrivateLog, SampledLog
        from tidemill.serving.embedded import SqlitePredictionLog

        sync = self.config.serving.log_sync
        opened: PredictionLog = self._port("predictions", sqlite=lambda path: SqlitePredictionLog(_file(path), ahead=ahead, sync=sync))
        opened = ArchivedLog(opened, lambda: self.tables)
        if self.config.serving.log_share < 1:
            opened = SampledLog(opened, self.config.serving.log_share)
        private = {name: private_columns(service) for name, service in self.definitions.services.items()}
        return PrivateLog(opened, private, self.masker) if any(private.values()) else opened

    @cached_property
    def masker(self) -> Masker:
        """Hides personal values behind a key that never leaves this project's home."""
        return Masker(secret_key(self.home / "pii.key"))

    @cached_property
    def labels(self) -> LabelStore:
        """Labels with their revisions."""
        from tidemill.monitoring.embedded import SqliteLabelStore

        return self._port("labels", sqlite=lambda path: SqliteLabelStore(_file(path)))  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> Metrics:
        """Observations of monitored objectives."""
        from tidemill.monitoring.embedded import LedgerMetrics

        return LedgerMetrics(self.ledger)

    @cached_property
    def alerts(self) -> AlertSink | None:
        """Where alerts go; None when nowhere."""
        from tidemill.monitoring.embedded import WebhookAlerts

        url = self.config.stack.alerts
        return WebhookAlerts(url) if url else None

    @cached_property
    def traces(self) -> Tracer | None:
        """Where traces of requests go; None when nowhere."""
        return self._port("traces", self.config.serving.trace_share, "tidemill") if self.config.stack.traces else None

    @cached_property
    def executor(self) -> Executor:
        """Runs pipelines."""
        from tidemill.platform.wiring import make_executor

        return make_executor(self)

    @cached_property
    def loop(self) -> Loop:
        """The platform as the loop sees it; runs are executed in this process."""
        from tidemill.platform.wiring import make_loop

        return make_loop(self, triggers_from(self.config))

    def training_set(
        self,
        features: Sequence[str] = (),
        *,
        spine: str | Path | pa.Table | None = None,
        label: str | None = None,
        service: str | None = None,
        key: str = "",
        at: str = "",
        lead: str = "",
        from_us: int | None = None,
        until_us: int | None = None,
    ) -> pa.Table:
        """A training set: rows with the features that were known at each row's own time, and its label.

        Who asks need not list rows: they are those of an event table, or of a label's table.

        Args:
            features: names of feature views, single features (`view__feature`), on-demand features, services, or columns of the spine; those
                of the service when there is none.
            spine: the name of a table of events, each row of which is one of the set as it was known at its own time; or rows that you list
                (an Arrow table, a Parquet or CSV file) with a column `at`. Without one: the service's, else the label's table, whose rows
                say when and about whom (entity keys), and nothing else, as they are known later.
            label: its name; rows without it are left out, but null in rows that you list. "" leaves labels out. That of the service by default.
            service: whose features, spine, key, lead and label are the defaults; the only one there is, unless features and rows are named.
            key: the column that tells rows apart, when the table's key does not.
            at: the column that says when, instead of the spine's event time.
            lead: how long before that time ("1h").
            from_us: no row of an earlier time (us).
            until_us: no row of a later time, and labels as they were known then (us); the present by default.

        Returns:
            Columns `id`, `at`, the entity keys, the features, `label`; in time order, or in that of the rows that you list, of which all columns stay.

        Raises:
            NotFoundError: there is nothing of that name.
            InvalidError: no such row, a column is missing, or of the wrong type.
        """
        from tidemill.platform.frames import make_frame
        from tidemill.platform.wiring import frame_source

        until = self.clock.now_us() if until_us is None else until_us
        return make_frame(
            self.definitions, frame_source(self), features, spine=spine, label=label, service=service, key=key, at=at, lead=lead,
            from_us=from_us, until_us=until,
        )[0]  # fmt: skip

    def close(self) -> None:
        """Close what was opened and can be closed."""
        topics = [topic.stream for by_url in self.__dict__.get("topics", {}).values() for topic in by_url.values()]
        for opened in [*self.__dict__.values(), *topics]:
            close = getattr(opened, "close", None)
            if callable(close) and opened is not self.clock:
                close()


def _furnish(home: Path) -> None:
    """Make the home; a new one ignores itself, so that no record of a project's code takes in what is below it."""
    home.mkdir(parents=True, exist_ok=True)
    if not any(home.iterdir()):
        (home / ".gitignore").write_text("# made by Tidemill: none of this is code\n*\n")


def _opened(adapter: EntryPoint, setting: str, *given: Any) -> Any:
    """What an adapter opens. Raises `ConfigError` when the extra that it comes with is not installed."""
    try:
        return adapter.load()(*given)
    except ModuleNotFoundError as error:
        extra = adapter.value.removeprefix("tidemill.adapters.").partition(".")[0]
        raise ConfigError(f"{setting}: {adapter.name!r} needs an extra: pip install 'tidemill[{extra}]'") from error


def _file(path: str) -> str:
    """The path behind `sqlite:` however many slashes a person wrote."""
    return path if not path.startswith("//") else "/" + path.lstrip("/")

"""What the API and the console ask of a platform: a small part of it, so that anything with these attributes can stand behind them."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tidemill.core.clock import Clock
from tidemill.core.definitions import Definitions
from tidemill.features.ports import OfflineStore
from tidemill.ingestion.ports import Stream
from tidemill.ledger.store import Ledger
from tidemill.monitoring.ports import LabelStore
from tidemill.registry.ports import ModelRegistry
from tidemill.serving.ports import PredictionLog
from tidemill.serving.tokens import Access
from tidemill.tracking.ports import Tracker
from tidemill.validation.ports import Profiler, SchemaStore
from tidemill.versioning.ports import TableStore

Verify = Callable[[str], Access | None]
"""Whose token it is, None when nobody made it: `serving.tokens.Tokens(ledger, clock).verify`."""

Why = Callable[[Any, str], Mapping[str, Any]]
"""Everything behind one prediction id, as JSON values. Raises `NotFoundError`."""


class Needs(Protocol):
    """The attributes of `Platform` that pages and routes read."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def definitions(self) -> Definitions:
        """What the project defines."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The metadata store."""
        ...

    @property
    def tables(self) -> TableStore:
        """Versioned tables."""
        ...

    @property
    def profiler(self) -> Profiler:
        """Reads stored profiles."""
        ...

    @property
    def schemas(self) -> SchemaStore:
        """Curated schemas."""
        ...

    @property
    def offline(self) -> OfflineStore:
        """Explains feature values."""
        ...

    @property
    def registry(self) -> ModelRegistry:
        """Model versions."""
        ...

    @property
    def tracker(self) -> Tracker:
        """Parameters and metrics of runs."""
        ...

    @property
    def log(self) -> PredictionLog:
        """Predictions."""
        ...

    @property
    def labels(self) -> LabelStore:
        """Labels."""
        ...

    @property
    def stream(self) -> Stream:
        """Pushed rows."""
        ...

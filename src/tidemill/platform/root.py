"""The composition root: one project, one configuration, every port opened when it is first used.

Nothing else in Tidemill imports an `embedded` module or an adapter. A URL's scheme chooses what stands behind a port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.core.clock import Clock, WallClock
from tidemill.core.errors import ConfigError

if TYPE_CHECKING:
    from tidemill.catalog.ports import Catalog
    from tidemill.cicd.ports import Builder
    from tidemill.core.definitions import Definitions
    from tidemill.features.ports import OfflineStore, OnlineStore
    from tidemill.ledger.store import Ledger
    from tidemill.monitoring.ports import LabelStore
    from tidemill.platform.config import Config
    from tidemill.retraining.ports import Metrics
    from tidemill.serving.ports import PredictionLog, Router, Runtime
    from tidemill.tracking.ports import Tracker
    from tidemill.training.ports import Trainer
    from tidemill.tuning.ports import Tuner
    from tidemill.validation.ports import Profiler, SchemaStore
    from tidemill.versioning.ports import BlobStore, TableStore

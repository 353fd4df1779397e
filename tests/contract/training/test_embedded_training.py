"""The embedded trainer and the source over embedded stores keep their ports' promises."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Label, Service, Table
from tidemill.monitoring.embedded import SqliteLabelStore
from tidemill.monitoring.ports import LabelRow
from tidemill.testing.training import TrainerContract, TrainingSourceContract, World, day
from tidemill.training import FrameSource
from tidemill.training.embedded import ProcessTrainer
from tidemill.training.ports import Trainer, TrainingSource
from tidemill.versioning.embedded import IcebergTableStore
from tidemill.versioning.ports import Scan

UTC = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [("flight", pa.string()), ("scheduled_at", UTC), ("filed_at", UTC), ("distance", pa.float64()), ("carrier", pa.string())]
)


class TestProcessTrainer(TrainerContract):
    @pytest.fixture
    def trainer(self) -> Trainer:
        return ProcessTrainer()


class EmbeddedWorld:
    """Iceberg tables and SQLite labels."""

    def __init__(self, folder: Path) -> None:
        self.tables = IcebergTableStore(folder / "lake", f"sqlite:///{folder}/catalog.db", ReplayClock(day(0)))
        self.labels = SqliteLabelStore(str(folder / "labels.db"))
        self.batches = 0
        schedule = Table("schedule", "files:none", event_time="scheduled_at", known_time="filed_at", key="flight")
        late = Label("late", schedule, "true", key="flight")
        service = Service("delay", ["distance", "carrier"], late, schedule, "flight", lead="1h")
        self.definitions = Definitions(tables={"schedule": schedule}, labels={"late": late}, services={"delay": service})
        self.tables.create("schedule", SCHEMA)

    def publish(self, rows: list[tuple[str, int, int, float, str | None]]) -> None:
        self.batches += 1
        columns = [pa.array(column, type=kind) for column, kind in zip(zip(*rows, strict=True), SCHEMA.types, strict=True)]
        self.tables.append("schedule", pa.table(columns, schema=SCHEMA), batch=f"b{self.batches}", branch="main")

    def label(self, rows: list[tuple[str, float | None, int]]) -> None:
        self.labels.write([LabelRow("late", key, value, known_us, known_us) for key, value, known_us in rows])

    def source(self) -> TrainingSource:
        return FrameSource(self.definitions, join, self.tables, self.labels)

    def tags(self) -> set[str]:
        return {ref for snapshot in self.tables.snapshots("schedule") for ref in snapshot.refs}


def join(_service: Service, spine: pa.Table, _scans: Mapping[str, Scan]) -> pa.Table:
    """A service without views: its features are the spine's own columns."""
    return spine


class TestFrameSource(TrainingSourceContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return EmbeddedWorld(tmp_path)

    def test_rows_without_a_key_have_no_label_and_harm_nobody(self, world: EmbeddedWorld) -> None:
        world.publish([("a", day(1), day(0), 1.0, "AA"), (None, day(1), day(0), 2.0, "BB"), ("b", day(2), day(0), 3.0, None)])  # type: ignore[list-item]
        world.label([("a", 1.0, day(2)), ("b", 0.0, day(3))])
        assert world.source().frame("delay", day(5)).table["id"].to_pylist() == ["a", "b"]

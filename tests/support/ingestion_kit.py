"""A small project to ingest into."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Table
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.ingestion import IngestReport, ingest
from tidemill.ingestion.embedded import open_source
from tidemill.ledger import schema as t
from tidemill.ledger.store import Ledger
from tidemill.validation import check
from tidemill.validation.embedded import SketchProfiler
from tidemill.validation.ports import Audit, ColumnRules, TableSchema
from tidemill.versioning.embedded import IcebergTableStore
from tidemill.versioning.ports import TableStore

TABLE = Table("stops", "files:data/stops", event_time="at", known_time="seen_at", key="stop")
RULES = TableSchema(
    "stops",
    (
        ColumnRules("stop", "text", null_fraction=0.0),
        ColumnRules("delay", "number", null_fraction=0.5, low=-60, high=600),
        ColumnRules("at", "time"),
        ColumnRules("seen_at", "time"),
    ),
    unique=("stop",),
)


def rows_of(day: int, n: int = 3, **columns: Any) -> pa.Table:
    """A day's rows, with columns replaced."""
    times = pa.array([day * DAY_US + i * HOUR_US for i in range(n)], pa.timestamp("us", tz="UTC"))
    return pa.table(
        {"stop": [f"{day}-{i}" for i in range(n)], "delay": [float(i) for i in range(n)], "at": times, "seen_at": times} | columns
    )


@dataclass
class World:
    """A project with one table, its lake and its ledger."""

    root: Path
    clock: ReplayClock = field(default_factory=lambda: ReplayClock(100 * DAY_US))
    rules: TableSchema | None = RULES

    def __post_init__(self) -> None:
        (self.root / "data/stops").mkdir(parents=True)
        self.open()

    def open(self) -> None:
        """As a new process would."""
        self.ledger = Ledger(f"sqlite:///{self.root}/ledger.db")
        self.tables: TableStore = IcebergTableStore(self.root / "lake", f"sqlite:///{self.root}/lake.db", self.clock)

    def put(self, name: str, rows: pa.Table | bytes) -> None:
        path = self.root / "data/stops" / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            pq.write_table(rows, path)

    def audit(self, table: str, rows: pa.Table) -> Audit:
        return check(rows, self.rules, SketchProfiler()) if self.rules else Audit(())

    def ingest(self, table: Table = TABLE, tables: TableStore | None = None, ledger: Ledger | None = None) -> list[IngestReport]:
        source = open_source(table.source, self.root, table)
        return ingest(table, source, tables=tables or self.tables, audit=self.audit, ledger=ledger or self.ledger, clock=self.clock)

    def main(self, name: str = "stops") -> list[dict[str, Any]]:
        """The published rows."""
        scan = self.tables.scan(name)
        parts = [pq.ParquetFile(path).read() for path in scan.paths]
        return pa.concat_tables(parts, promote_options="default").to_pylist() if parts else []

    def records(self, table: sa.Table, *without: str) -> list[dict[str, Any]]:
        columns = [c for c in table.c if c.name not in ("wall_ms", *without)]
        with self.ledger.read() as db:
            return [dict(row._mapping) for row in db.execute(sa.select(*columns))]

    def state(self) -> dict[str, Any]:
        """Everything that must come out the same however often one is killed."""
        kept = {table.name: self.records(table) for table in (t.batch, t.decision, t.profile, t.state, t.event)}
        return kept | {"main": self.main(), "refs": sorted(ref for s in self.tables.snapshots("stops") for ref in s.refs)}

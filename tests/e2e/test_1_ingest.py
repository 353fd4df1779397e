"""Story 1: ingest, audit, publish. Bad batches are rejected with their reason, main stays, a corrected batch passes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.e2e.conftest import EXAMPLE, load_script, make_project

from tidemill.core.clock import ReplayClock
from tidemill.core.instants import DAY_US, parse_instant
from tidemill.ingestion import IngestReport, rejected
from tidemill.platform.root import Platform
from tidemill.retraining import loop as stages

FAULTS = {"departures": "2013-02-03", "landings": "2013-02-04", "weather": "2013-02-05"}


@dataclass
class Month:
    """A project whose first month is published and whose schemas were inferred from it; `clock` stands at its end."""

    platform: Platform
    clock: ReplayClock
    made: object

    def day(self) -> list[IngestReport]:
        """One more day comes in."""
        self.clock.advance_to(self.clock.now_us() + DAY_US)
        return stages.ingest(self.platform.loop)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    project = make_project(tmp_path_factory.mktemp("ingest") / "flights", first="2013-01-01", end="2013-02-08")
    shutil.rmtree(project / "schemas")
    made = load_script(EXAMPLE / "make_data.py")
    for (stream, day), kind in zip(FAULTS.items(), ("seconds", "null_tails", "renamed"), strict=True):
        _spoil(project, made, stream, day, kind)
    clock = ReplayClock(parse_instant("2013-02-02"))
    platform = Platform.open(project, clock=clock)
    stages.ingest(platform.loop)
    stages.learn_schemas(platform.loop)
    yield Month(platform, clock, made)
    platform.close()


def _spoil(project: Path, made: object, stream: str, day: str, kind: str) -> None:
    """The day's file is bad; the right one comes a day later under the next day's date."""
    path = project / "data" / stream / f"{day}.parquet"
    rows = pq.read_table(path)
    following = f"{day[:-2]}{int(day[-2:]) + 1:02d}"
    pq.write_table(rows, path.with_name(f"{following}.r1.parquet"))
    pq.write_table(made.spoil(rows, kind), path)  # type: ignore[attr-defined]


def test_schemas_are_inferred_from_the_first_month_and_kept_for_people(month: Month) -> None:
    for table in ("schedule", "departures", "landings", "weather"):
        rules = month.platform.schemas.find(table)
        assert rules is not None
        assert rules.columns
        assert (month.platform.project / "schemas" / f"{table}.yaml").is_file()


def test_bad_batches_are_rejected_with_column_rule_expected_and_observed(month: Month) -> None:
    before = {table: month.platform.tables.scan(table).snapshot_id for table in FAULTS}
    month.day()  # 2 February, clean
    clean = {table: month.platform.tables.scan(table).snapshot_id for table in FAULTS}
    assert all(clean[table] != before[table] for table in FAULTS), "a clean day moves main"

    found: dict[str, IngestReport] = {}
    for _ in range(3):
        heads = {table: month.platform.tables.scan(table).snapshot_id for table in FAULTS}
        for report in month.day():
            if report.status == "rejected":
                found[report.table] = report
                if not any(r.table == report.table and r.status == "published" for r in [report]):
                    assert month.platform.tables.scan(report.table).snapshot_id == heads[report.table], "main does not move"
    assert set(found) == set(FAULTS)

    seconds = {(a.column, a.rule) for a in found["departures"].anomalies}
    assert any(column == "dep_delay" and rule in ("quantiles", "range") for column, rule in seconds)
    nulls = next(a for a in found["landings"].anomalies if a.rule == "null_fraction")
    assert nulls.column == "tailnum"
    assert "33" in nulls.observed
    assert nulls.expected
    renamed = {(a.column, a.rule) for a in found["weather"].anomalies}
    assert ("wind_speed", "missing_column") in renamed

    for table, report in found.items():
        rows = rejected(table, report.batch_id, tables=month.platform.tables, ledger=month.platform.ledger)
        assert rows.num_rows == report.rows > 0
    bad = rejected("departures", found["departures"].batch_id, tables=month.platform.tables, ledger=month.platform.ledger)
    assert max(v for v in bad.column("dep_delay").to_pylist() if v is not None) > 3000


def test_the_corrected_batches_pass(month: Month) -> None:
    while month.clock.now_us() < parse_instant("2013-02-08"):
        month.day()
    for table, day in FAULTS.items():
        scan = month.platform.tables.scan(table)
        known = {"departures": "recorded_at", "landings": "recorded_at", "weather": "published_at"}[table]
        rows = pq.ParquetDataset(list(scan.paths)).read(columns=[known]).column(known)
        days = {value.date().isoformat() for value in rows.to_pylist()}
        assert day in days, f"{table}: the corrected rows of {day} are published"
    assert stages.ingest(month.platform.loop) == [], "what was taken in is not taken in again"

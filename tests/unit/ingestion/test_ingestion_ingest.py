"""Write, audit, publish, on the real table store."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
from tests.support.ingestion_kit import TABLE, World, rows_of

from tidemill.core.definitions import Table
from tidemill.core.errors import NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.ingestion import ingest, rejected
from tidemill.ingestion.embedded import open_source
from tidemill.ingestion.ports import Batch
from tidemill.ledger import schema as t


def test_batches_are_published_once_in_order(world: World) -> None:
    for day in (12, 10, 11):
        world.put(f"1970-01-{day + 1}.parquet", rows_of(day))
    reports = world.ingest()
    assert [(r.origin, r.status, r.rows) for r in reports] == [(f"1970-01-{d}.parquet", "published", 3) for d in (11, 12, 13)]
    assert [row["stop"] for row in world.main()] == [f"{d}-{i}" for d in (10, 11, 12) for i in range(3)]
    assert all(r.published is not None and r.published.num_rows == 3 for r in reports)
    assert world.ingest() == []
    assert len(world.records(t.batch)) == len(world.records(t.event)) == 3
    assert world.records(t.decision) == []


def test_only_what_has_come_is_taken(world: World) -> None:
    world.put("1970-04-11.parquet", rows_of(100))  # day 100 counts from its end
    assert world.ingest() == []
    world.clock.advance_to(101 * DAY_US)
    assert [r.status for r in world.ingest()] == ["published"]


def test_a_rejected_batch_leaves_main_and_can_be_queried(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10))
    world.put("1970-01-12.parquet", rows_of(11, delay=[60.0, 6000.0, 12000.0]))
    world.put("1970-01-13.parquet", rows_of(12))
    _, bad, _ = world.ingest()
    assert (bad.status, bad.published, bad.snapshot_id) == ("rejected", None, None)
    assert [(a.column, a.rule, a.expected, a.observed, a.rows) for a in bad.anomalies] == [
        ("delay", "range", "-60 to 600", "60 to 12000", 2)
    ]
    assert {row["stop"][:2] for row in world.main()} == {"10", "12"}
    assert rejected("stops", bad.batch_id, tables=world.tables, ledger=world.ledger).equals(rows_of(11, delay=[60.0, 6000.0, 12000.0]))
    branch = world.tables.scan("stops", f"audit-{bad.batch_id}")
    assert len(branch.paths) == 2  # what main had, and the rejected rows
    (decision,) = world.records(t.decision)
    assert (decision["kind"], decision["outcome"], decision["subject"]) == ("audit", "reject", f"stops/{bad.batch_id}")
    assert json.loads(decision["evidence"])["anomalies"][0]["column"] == "delay"
    record = next(b for b in world.records(t.batch) if b["id"] == bad.batch_id)
    assert (record["status"], record["branch"], record["snapshot_id"]) == ("rejected", f"audit-{bad.batch_id}", None)


def test_the_corrected_batch_passes(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10, delay=[1e6] * 3))
    world.put("1970-01-12.r1.parquet", rows_of(10))
    assert [r.status for r in world.ingest()] == ["rejected", "published"]
    assert [row["delay"] for row in world.main()] == [0.0, 1.0, 2.0]


def test_a_renamed_column_is_rejected_before_it_touches_the_table(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10))
    world.put("1970-01-12.parquet", rows_of(11).rename_columns(["stop", "late", "at", "seen_at"]))
    _, bad = world.ingest()
    assert {(a.column, a.rule) for a in bad.anomalies} == {("delay", "missing_column"), ("late", "unexpected_column")}
    assert "is it now called 'late'?" in bad.anomalies[0].observed
    assert "late" not in world.tables.scan("stops").schema.names
    kept = rejected("stops", bad.batch_id, tables=world.tables, ledger=world.ledger)
    assert kept.column_names == ["stop", "late", "at", "seen_at"]
    assert kept["late"].to_pylist() == [0.0, 1.0, 2.0]


def test_a_renamed_clock_or_key_is_rejected_without_any_schema(world: World) -> None:
    world.rules = None
    world.put("1970-01-11.parquet", rows_of(10).rename_columns(["stop", "delay", "at", "when"]))
    world.put("1970-01-12.parquet", rows_of(11, stop=["x", None, "z"]))
    assert [[(a.column, a.rule) for a in r.anomalies] for r in world.ingest()] == [
        [("seen_at", "missing_column")],
        [("stop", "null_fraction")],
    ]
    with pytest.raises(NotFoundError):
        world.tables.scan("stops")


def test_rejected_columns_may_change_their_type(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10, delay=["one", "two", "three"]))
    world.put("1970-01-12.parquet", rows_of(11, delay=[9e9, 9e9, 9e9]))
    world.put("1970-01-13.parquet", rows_of(12, delay=pa.nulls(3)))
    reports = world.ingest()
    assert [r.status for r in reports] == ["rejected"] * 3
    found = [rejected("stops", r.batch_id, tables=world.tables, ledger=world.ledger)["delay"].to_pylist() for r in reports]
    assert found == [["one", "two", "three"], [9e9] * 3, [None] * 3]


def test_an_unreadable_file_is_rejected_and_the_loop_goes_on(world: World) -> None:
    world.put("1970-01-11.parquet", b"PAR1 no")
    world.put("1970-01-12.parquet", rows_of(11))
    bad, good = world.ingest()
    assert (bad.status, good.status) == ("rejected", "published")
    assert [(a.column, a.rule) for a in bad.anomalies] == [("*", "rows")]
    assert "1970-01-11.parquet cannot be read as PARQUET" in bad.anomalies[0].observed
    assert rejected("stops", bad.batch_id, tables=world.tables, ledger=world.ledger).num_rows == 0
    assert world.ingest() == []


def test_a_file_that_comes_late_is_not_lost(world: World) -> None:
    for day in (10, 12, 13):
        world.put(f"1970-01-{day + 1}.parquet", rows_of(day))
    assert len(world.ingest()) == 3
    world.put("1970-01-12.parquet", rows_of(11))
    assert [r.origin for r in world.ingest()] == ["1970-01-12.parquet"]
    assert world.ingest() == []
    world.put("1970-01-15.parquet", rows_of(14))
    assert [r.origin for r in world.ingest()] == ["1970-01-15.parquet"]
    assert len(world.main()) == 15


def test_new_columns_are_added_when_the_schema_lets_them(world: World) -> None:
    world.rules = None
    world.put("1970-01-11.parquet", rows_of(10))
    world.put("1970-01-12.parquet", rows_of(11, gate=["A", "B", None]))
    world.put("1970-01-13.parquet", rows_of(12).drop_columns(["delay"]))
    assert [r.status for r in world.ingest()] == ["published"] * 3
    rows = world.main()
    assert [row.get("gate") for row in rows] == [None] * 3 + ["A", "B", None] + [None] * 3
    assert [row["delay"] for row in rows[-3:]] == [None] * 3


def test_csv_types_follow_the_table(world: World) -> None:
    table = Table("stops", "files:data/stops", event_time="at", known_time="seen_at")
    world.rules = None
    world.put("1970-01-11.parquet", rows_of(10))
    world.put(
        "1970-01-12.csv", b"stop,delay,at,seen_at\n1,7,1970-01-11 05:00:00,1970-01-11T00:00:00-05:00\n2,,1970-01-11,1970-01-11T05:00:00.5\n"
    )
    world.put("1970-01-13.csv", b"stop,delay,at,seen_at\n3,soon,1970-01-12,1970-01-12\n")
    first, second, third = world.ingest(table)
    assert (first.status, second.status, third.status) == ("published", "published", "rejected")
    assert second.published is not None
    five = 10 * DAY_US + 5 * 3_600_000_000
    assert second.published["at"].cast(pa.int64()).to_pylist() == [five, 10 * DAY_US]
    assert second.published["seen_at"].cast(pa.int64()).to_pylist() == [five, five + 500_000]
    assert second.published.select(["stop", "delay"]).to_pylist() == [{"stop": "1", "delay": 7.0}, {"stop": "2", "delay": None}]
    assert [(a.column, a.rule) for a in third.anomalies] == [("delay", "type")]


def test_profiles_of_what_was_published_are_kept(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10))
    world.put("1970-01-12.parquet", rows_of(11, delay=[1e6] * 3))
    world.ingest()
    (profile,) = world.records(t.profile)
    assert (profile["subject"], profile["rows"], profile["from_us"]) == ("table:stops", 3, 10 * DAY_US)


def test_asking_for_a_batch_that_was_not_rejected_says_so(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10))
    (report,) = world.ingest()
    for name in (report.batch_id, "batch-0"):
        with pytest.raises(NotFoundError, match="no rejected batch of 'stops'"):
            rejected("stops", name, tables=world.tables, ledger=world.ledger)


def test_two_tables_may_share_a_ledger(world: World) -> None:
    other = Table("others", "files:data/stops", event_time="at", known_time="seen_at", key="stop")
    world.put("1970-01-11.parquet", rows_of(10))
    assert len(world.ingest(TABLE)) == len(world.ingest(other)) == 1
    assert world.main("others") == world.main("stops")


def test_what_was_taken_is_not_read_again(world: World) -> None:
    given = []

    class Watched:
        def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
            for batch in open_source(TABLE.source, world.root, TABLE).read(after=after, until_us=until_us):
                given.append(batch.origin)
                yield batch

    def take() -> list[str]:
        given.clear()
        ingest(TABLE, Watched(), tables=world.tables, audit=world.audit, ledger=world.ledger, clock=world.clock)
        return list(given)

    for day in (10, 12):
        world.put(f"1970-01-{day + 1}.parquet", rows_of(day))
    assert len(take()) == 2
    assert take() == []
    world.put("1970-01-12.parquet", rows_of(11))  # comes late: the others are given again, once
    assert len(take()) == 3
    assert take() == []

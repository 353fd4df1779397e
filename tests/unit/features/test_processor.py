import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US, parse_duration
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, TileProcessor, ViewProcessor
from tidemill.features.embedded.memory import segments

MINUTE = parse_duration("1m")
PLACE = Entity("place")
TRIPS = Table("trips", "files:trips", "left_at", "recorded_at", key="trip")
PINGS = Table("pings", "files:pings", "seen_at", "sent_at")
BUSY = FeatureView("busy", PLACE, TRIPS, [mean("delay", over="1h", hop="5m"), count(over="1h", hop="5m"), latest("delay", ttl="1h")])
ALIVE = FeatureView("alive", PLACE, PINGS, [latest("level", ttl="1h")])


def define(*views: FeatureView) -> Definitions:
    return Definitions(views={v.name: v for v in views})


BOTH = define(BUSY, ALIVE)


def times(us: list[int]) -> pa.Array:
    return pa.array(us, pa.int64()).cast(pa.timestamp("us", "UTC"))


def trips(*rows: tuple[str, int, int, float | None]) -> pa.Table:
    """(trip, left at, recorded at, delay), times in minutes."""
    names, left, recorded, delay = ([*column] for column in zip(*rows, strict=True))
    clocks = {"left_at": times([t * MINUTE for t in left]), "recorded_at": times([t * MINUTE for t in recorded])}
    return pa.table({"trip": names, "place": ["a"] * len(rows), "delay": pa.array(delay, pa.float64())} | clocks)


def pings(*rows: tuple[int, str]) -> pa.Table:
    seen = times([t * MINUTE for t, _ in rows])
    return pa.table({"place": ["a"] * len(rows), "level": [level for _, level in rows], "seen_at": seen, "sent_at": seen})


def read(processor: TileProcessor | ViewProcessor | OnlineReader, minute: float, place: Any = "a") -> dict[str, Any]:
    return processor.read([BUSY, ALIVE], [{"place": place}], int(minute * MINUTE))[0]


def test_a_reader_in_another_place_sees_what_was_committed(tmp_path: Path) -> None:
    processor = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    reader = OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("trips", trips(("x", 10, 12, 5.0), ("y", 30, 12, 7.0)))
    processor.push("pings", pings((11, "low")))
    with pytest.raises(InvalidError, match="never been materialized"):
        read(reader, 20)
    processor.advance(15 * MINUTE)
    processor.commit()
    assert read(reader, 20) == {"busy__delay_mean_1h": 5.0, "busy__count_1h": 1, "busy__delay": 5.0, "alive__level": "low"}
    assert read(reader, 30)["busy__count_1h"] == 2, "what lies ahead counts without the writer"
    assert read(reader, 200)["busy__count_1h"] == 0, "and goes without the writer"
    assert read(reader, 11.5)["alive__level"] == "low", "before the writer's clock: from the rows it remembers"
    assert read(reader, 10.5) == {"busy__delay_mean_1h": None, "busy__count_1h": 0, "busy__delay": None, "alive__level": None}
    processor.push("trips", trips(("x", 10, 16, 9.0)))
    processor.commit()
    assert read(reader, 14)["busy__delay"] == 5.0
    assert read(reader, 16)["busy__delay"] == 9.0


def test_a_correction_reaches_rows_of_before_a_restart(tmp_path: Path) -> None:
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("trips", trips(("x", 10, 12, 5.0), ("y", 11, 12, 7.0)))
    assert read(processor, 20)["busy__delay_mean_1h"] == 6.0
    processor.commit()
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    assert processor.push("trips", trips(("y", 11, 21, None), ("x", 10, 12, 5.0))) == 1
    assert read(processor, 20.5)["busy__delay_mean_1h"] == 6.0
    assert read(processor, 21) == {"busy__delay_mean_1h": 5.0, "busy__count_1h": 2, "busy__delay": None, "alive__level": None}
    assert read(processor, 20.5)["busy__delay_mean_1h"] == 6.0, "a read may go back"
    assert processor.known_us("trips") == 21 * MINUTE
    assert processor.known_us("pings") is None


def test_a_correction_counts_from_the_very_time_it_is_known(tmp_path: Path) -> None:
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("trips", trips(("x", 10, 12, 5.0)))
    assert read(processor, 20)["busy__delay_mean_1h"] == 5.0
    processor.push("trips", trips(("x", 10, 20, 9.0)))
    assert read(processor, 20) == {"busy__delay_mean_1h": 9.0, "busy__count_1h": 1, "busy__delay": 9.0, "alive__level": None}


def test_state_and_memory_do_not_grow_with_time(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor = TileProcessor(store, BOTH)
    sizes, rows = [], list[tuple[str, int, int, float | None]]()
    for day in range(12):
        rows = [(f"t{day}-{i}", day * 1440 + i, day * 1440 + i, 1.0) for i in range(0, 1440, 20)]
        processor.push("trips", trips(*rows))
        processor.push("pings", pings(*((day * 1440 + i, "ok") for i in range(0, 1440, 20))))
        processor.advance((day + 1) * DAY_US)
        processor.commit()
        sizes.append(_size(tmp_path / "o.db"))
    assert sizes[-1] < sizes[4] * 1.05
    assert TileProcessor(store, BOTH).push("trips", trips(*rows)) == 0


def _size(path: Path) -> int:
    import sqlite3

    with sqlite3.connect(path) as db:
        total: int = db.execute("SELECT sum(length(body)) FROM state").fetchone()[0]
    db.close()
    return total


def test_too_long_ago_is_an_error_that_says_from_when(tmp_path: Path) -> None:
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("trips", trips(("x", 10, 12, 5.0)))
    processor.advance(3 * DAY_US)
    processor.commit()
    with pytest.raises(InvalidError, match="from 1970-01-03T00:00:00Z on"):
        read(processor, 20)
    assert read(processor, 3 * 1440)["busy__count_1h"] == 0


def test_many_commits_are_merged_when_opened(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor = TileProcessor(store, BOTH)
    for i in range(70):
        processor.push("trips", trips((f"t{i}", i, i, float(i))))
        processor.commit()
    processor = TileProcessor(store, BOTH)
    processor.push("trips", trips(("new", 70, 70, 1.0)))
    processor.commit()
    again = TileProcessor(store, BOTH)
    assert again.push("trips", trips(*((f"t{i}", i, i, float(i)) for i in range(70)))) == 0
    assert read(again, 70)["busy__count_1h"] == 60


def test_changed_views_never_read_old_state(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor = TileProcessor(store, BOTH)
    processor.push("trips", trips(("x", 10, 12, 5.0)))
    processor.commit()
    wider = FeatureView("busy", PLACE, TRIPS, [count(over="2h", hop="5m")])
    changed = TileProcessor(store, define(wider, ALIVE))
    assert "trips" in changed.stale
    with pytest.raises(InvalidError, match="tidemill features materialize"):
        changed.read([wider], [{"place": "a"}], 20 * MINUTE)
    with pytest.raises(InvalidError, match="materialize"):
        changed.push("trips", trips(("x", 10, 12, 5.0)))
    with pytest.raises(InvalidError, match="not the one"):
        changed.read([BUSY], [{"place": "a"}], 20 * MINUTE)


def test_wrong_input_is_refused_with_its_name(tmp_path: Path) -> None:
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    rows = trips(("x", 10, 12, 5.0))
    with pytest.raises(InvalidError, match="lack delay"):
        processor.push("trips", rows.drop_columns(["delay"]))
    with pytest.raises(InvalidError, match="'left_at' of table 'trips' is timestamp"):
        processor.push("trips", rows.set_column(3, "left_at", rows["left_at"].cast(pa.timestamp("us"))))
    with pytest.raises(InvalidError, match="cannot be aggregated"):
        processor.push("trips", rows.set_column(2, "delay", pa.array(["5"])))
    with pytest.raises(InvalidError, match="lacks 'place'"):
        processor.read([BUSY], [{}], 0)
    with pytest.raises(NotFoundError, match="no feature view named 'bus'"):
        processor.read([FeatureView("bus", PLACE, TRIPS, [count(over="1h", hop="5m")])], [{"place": "a"}], 0)
    with pytest.raises(NotFoundError, match="no table with feature views named 'trip'"):
        processor.reset("trip")
    assert processor.push("unread", rows) == 0
    assert read(processor, 20, None)["busy__count_1h"] == 0


_WRITER = """
import sys
from tests.unit.features.test_processor import *
processor = TileProcessor(SqliteOnlineStore(sys.argv[1]), BOTH)
for i in range(100000):
    processor.push("trips", trips((f"t{i}", i, i, float(i))))
    processor.commit()
    print(i, flush=True)
"""


def test_kill_9_leaves_the_last_commit_whole(tmp_path: Path) -> None:
    """Durable and atomic: tiles, rows and cursors are of one commit."""
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path / "o.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as writer:
        assert writer.stdout is not None
        for _ in range(80):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        last = int(rest[-1]) if rest else last
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    known = processor.known_us("trips")
    assert known in (last * MINUTE, (last + 1) * MINUTE)
    done = known // MINUTE
    assert processor.push("trips", trips(*((f"t{i}", i, i, float(i)) for i in range(done + 2)))) == 1
    assert read(processor, done + 1)["busy__count_1h"] == len(
        [i for i in range(done + 2) if i * MINUTE > (done - 59) * MINUTE // (5 * MINUTE) * 5 * MINUTE]
    )


def test_segments_stay_few_and_rows_small(tmp_path: Path) -> None:
    """A thousand commits leave a few segments (eight of a level become one), and a remembered row takes at most 100 bytes."""
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    for i in range(1000):
        processor.push("trips", trips((f"t{i}", i, i, float(i))))
        processor.commit()
    memory = processor._tables["trips"]
    assert len(memory._segments) <= 40
    again = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)._tables["trips"]
    assert again.rows.number.tolist() == memory.rows.number.tolist() == list(range(1, 1001))
    assert sum(values.nbytes for _, values in memory.rows._chunks) / 1000 + 5 * 8 + 2 * 8 <= 100
    assert len(memory.rows._chunks) <= 10


def test_more_rows_at_once_than_a_store_takes_in_a_body(tmp_path: Path) -> None:
    """Rows of 1 MB, 40 of them in one commit and then nine commits of one: pieces stay as they are, and all rows come back."""
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    level = "x" * 1_000_000
    processor.push("pings", pings(*((i, f"{i}{level}") for i in range(40))))
    processor.commit()
    for i in range(40, 49):
        processor.push("pings", pings((i, "low")))
        processor.commit()
    memory = processor._tables["pings"]
    store = SqliteOnlineStore(tmp_path / "o.db")
    sizes = [len(body) for body in store.read(segments(PINGS, {"segments": memory._segments})) if body is not None]
    assert max(sizes) <= 16 << 20
    assert len(sizes) == len(memory._segments) <= 6
    again = TileProcessor(store, BOTH)
    assert again._tables["pings"].rows.number.tolist() == list(range(1, 50))
    assert read(again, 39.5)["alive__level"] == f"39{level}"


def test_a_column_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    processor = TileProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("pings", pings((11, "low")))
    spoiled = pings((12, "low"))
    with pytest.raises(InvalidError, match="column 'place' was string so far and now is list"):
        processor.push("pings", spoiled.set_column(0, "place", pa.array([["a"]])))
    assert processor.push("pings", spoiled.set_column(0, "place", pa.array(["a"]).dictionary_encode())) == 1
    assert read(processor, 12)["alive__level"] == "low"

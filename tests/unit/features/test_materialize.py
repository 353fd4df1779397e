"""What is stale and why; filling in what is missing, nothing twice; kill -9 and readers in the middle."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.feature_rows import BUSY, CALM, DAY, MINUTE, TRIPS, WIDER, Trip, define, publish, rewrite, trips

from tidemill.core.aggregates import count
from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.features import materialize, stale, view_digest
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.features.pieces import relevant_rows

ROWS = trips(("x", "a", 10, 12, 5.0), ("y", "a", 30, 31, 7.0))
MORE = trips(("z", "a", 40, 41, 9.0))


def opened(tmp_path: Path, definitions: Definitions) -> ViewProcessor:
    return ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), definitions)


def reasons(processor: ViewProcessor, tables: Any, **given: Any) -> dict[str, str]:
    return {s.view: s.why for s in stale(processor.versions(), tables, **given)}


def read(tmp_path: Path, view: FeatureView, minute: int, place: str = "a") -> dict[str, Any]:
    return OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), define(view)).read([view], [{"place": place}], minute * MINUTE)[0]


def test_only_what_is_new_is_taken_and_each_reason_is_told(tmp_path: Path) -> None:
    tables = publish(tmp_path / "lake", ROWS)
    processor = opened(tmp_path, define(BUSY))
    assert reasons(processor, tables) == {"busy": "never materialized"}
    told: list[tuple[int, int, str]] = []
    [done] = materialize(processor, tables, at_us=45 * MINUTE, progress=lambda *state: told.append(state))
    assert (done.rows, done.published) == (2, True)
    assert told[-1] == (2, 2, "busy"), "a progress bar reaches its end"
    assert materialize(processor, tables, at_us=45 * MINUTE) == []
    tables = publish(tmp_path / "lake", MORE)
    [item] = stale(processor.versions(), tables)
    assert (item.why, item.batches, item.files) == ("new batches", 1, 1)
    assert [f.rows for f in materialize(processor, tables, at_us=45 * MINUTE)] == [1]
    assert read(tmp_path, BUSY, 45) == {"busy__delay_mean_1h": 7.0, "busy__count_1h": 3, "busy__delay": 9.0}
    (tmp_path / "o.db").unlink()
    again = opened(tmp_path, define(BUSY))
    assert reasons(again, tables, remembered={view_digest(BUSY)}) == {"busy": "store flushed"}
    with pytest.raises(NotFoundError, match="bussy"):
        stale(again.versions(), tables, views=["bussy"])


def test_rewritten_files_bring_nothing_new(tmp_path: Path) -> None:
    tables = publish(tmp_path / "lake", ROWS, MORE)
    processor = opened(tmp_path, define(BUSY))
    materialize(processor, tables, at_us=45 * MINUTE)
    tables = rewrite(tmp_path / "lake", tables)
    assert reasons(processor, tables) == {}
    late = publish(tmp_path / "lake", trips(("w", "a", 44, 44, 1.0)))["trips"]
    tables = {"trips": type(late)(TRIPS, late.scan, tables["trips"].batches + 1)}
    assert [f.rows for f in materialize(processor, tables, at_us=45 * MINUTE)] == [1]
    assert read(tmp_path, BUSY, 45)["busy__count_1h"] == 4


def test_a_changed_view_is_built_beside_the_old_one_and_touches_no_other(tmp_path: Path) -> None:
    tables = publish(tmp_path / "lake", ROWS)
    materialize(opened(tmp_path, define(BUSY, CALM)), tables, at_us=45 * MINUTE)
    processor = opened(tmp_path, define(WIDER, CALM))
    assert reasons(processor, tables) == {"busy": "changed definition"}
    [done] = materialize(processor, tables, at_us=45 * MINUTE, publish=False)
    assert (done.view, done.rows, done.published) == ("busy", 2, False)
    assert read(tmp_path, BUSY, 45)["busy__count_1h"] == 2
    with pytest.raises(InvalidError, match="tidemill features publish busy"):
        read(tmp_path, WIDER, 45)
    assert reasons(processor, tables) == {"busy": "not published"}
    assert [f.published for f in materialize(processor, tables, at_us=45 * MINUTE)] == [True]
    assert read(tmp_path, WIDER, 45)["busy__delay_mean_1h"] == 6.0
    more = publish(tmp_path / "lake", MORE)
    assert {f.digest for f in materialize(processor, more, at_us=45 * MINUTE)} == {view_digest(v) for v in (BUSY, WIDER, CALM)}
    assert read(tmp_path, BUSY, 45)["busy__count_1h"] == 3, "the old version goes on taking rows"


def test_until_leaves_what_was_known_later_for_another_time(tmp_path: Path) -> None:
    tables = publish(tmp_path / "lake", ROWS, MORE)
    processor = opened(tmp_path, define(BUSY))
    assert [f.rows for f in materialize(processor, tables, at_us=DAY_US, until_us=35 * MINUTE)] == [2]
    assert reasons(processor, tables) == {"busy": "new batches"}
    assert [f.rows for f in materialize(processor, tables, at_us=45 * MINUTE)] == [1]
    assert [f.rows for f in materialize(processor, tables, at_us=45 * MINUTE, from_us=0)] == [0], "all again: nothing new"


def test_a_build_that_would_lack_rows_is_refused(tmp_path: Path) -> None:
    tables = publish(tmp_path / "lake", ROWS)
    with pytest.raises(InvalidError, match="leave --from out"):
        materialize(opened(tmp_path, define(BUSY)), tables, at_us=3 * DAY_US, from_us=3 * DAY_US)


def test_rows_that_say_how_long_others_count_go_in_with_them(tmp_path: Path) -> None:
    """A flight of next week was cancelled long ago: its first row still lies ahead, and the old news ends it."""
    ahead, news = ("x", "a", 9 * DAY, 5, 5.0), ("x", "a", 4, 6, None)
    tables = publish(tmp_path / "lake", trips(news), trips(ahead), trips(("y", "a", 8 * DAY, 8 * DAY, 1.0)))
    pieces = list(relevant_rows(tables["trips"], tables["trips"].scan.paths, 7 * DAY * MINUTE))
    assert [p.rows["trip"].to_pylist() for p in pieces] == [["x", "x", "y"]]
    materialize(opened(tmp_path, define(CALM)), tables, at_us=8 * DAY * MINUTE)
    assert read(tmp_path, CALM, 9 * DAY) == {"calm__count_1d": 0}


_TRIP = st.tuples(
    st.sampled_from("xyz"), st.sampled_from("ab"), st.integers(0, 5 * DAY), st.integers(0, 4 * DAY), st.sampled_from([None, 1.0, 2.5])
)


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.lists(_TRIP, min_size=1, max_size=5), min_size=1, max_size=5),
    taken=st.integers(0, 5),
    at=st.integers(3 * DAY, 5 * DAY),
)
def test_built_late_or_followed_all_along_the_state_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Trip]], taken: int, at: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("m")
    tables = publish(tmp_path / "lake", *(trips(*b) for b in batches))
    followed = ViewProcessor(SqliteOnlineStore(tmp_path / "f.db"), define(CALM))
    for i in range(1, len(batches) + 1):
        scan = type(tables["trips"].scan)("trips", i, tables["trips"].scan.schema, tables["trips"].scan.paths[:i])
        materialize(followed, {"trips": type(tables["trips"])(TRIPS, scan, i)}, at_us=0)
    built = ViewProcessor(SqliteOnlineStore(tmp_path / "b.db"), define(CALM))
    materialize(built, tables, at_us=at * MINUTE)
    keys = [{"place": "a"}, {"place": "b"}]
    for minute in (at, at + 600, at + 2 * DAY):
        assert built.read([CALM], keys, minute * MINUTE) == followed.read([CALM], keys, minute * MINUTE), minute


_BUILD = """
import sys
from pathlib import Path
from tests.support.feature_rows import *
from tidemill.features import materialize
from tidemill.features import pieces
from tidemill.features.embedded import SqliteOnlineStore, ViewProcessor
pieces.ROWS = 40
processor = ViewProcessor(SqliteOnlineStore(sys.argv[1]), define(WIDER))
print("go", flush=True)
materialize(processor, publish(Path(sys.argv[2])), at_us=200 * MINUTE)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_and_readers_see_one_version_wholly(tmp_path: Path) -> None:
    """Every read by name is wholly the old version or wholly the new one, whenever the builder dies; the end is the undisturbed state."""
    batches = [trips(*((f"t{i}-{j}", p, 100 + i % 60, 110 + i % 60, float(i % 7)) for j, p in enumerate("abc"))) for i in range(60)]
    tables = publish(tmp_path / "lake", *batches)
    store = tmp_path / "o.db"
    materialize(ViewProcessor(SqliteOnlineStore(store), define(BUSY)), tables, at_us=200 * MINUTE)
    keys, at = [{"place": p} for p in "abc"], 200 * MINUTE
    old = OnlineReader(SqliteOnlineStore(store), define(BUSY)).read([BUSY], keys, at)
    undisturbed = ViewProcessor(SqliteOnlineStore(tmp_path / "u.db"), define(WIDER))
    materialize(undisturbed, tables, at_us=at)
    new = undisturbed.read([WIDER], keys, at)
    assert old != new
    seen: list[Any] = []
    done = threading.Event()

    def look() -> None:
        reader = OnlineReader(SqliteOnlineStore(store), define(WIDER))
        while not done.is_set():
            view = reader.current("busy")
            assert view is not None
            seen.append(reader.read([view], keys, at))

    thread = threading.Thread(target=look)
    thread.start()
    kills = 0
    try:
        for wait in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, None):
            command = [sys.executable, "-c", textwrap.dedent(_BUILD), str(store), str(tmp_path / "lake")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as builder:
                assert builder.stdout is not None
                builder.stdout.readline()
                try:
                    builder.wait(wait)
                except subprocess.TimeoutExpired:
                    os.kill(builder.pid, signal.SIGKILL)
                    kills += 1
    finally:
        done.set()
        thread.join()
    assert kills
    assert all(answer in (old, new) for answer in seen)
    assert seen[0] == old
    final = OnlineReader(SqliteOnlineStore(store), define(WIDER))
    assert final.read([WIDER], keys, at) == new
    assert ViewProcessor(SqliteOnlineStore(store), define(WIDER)).read([WIDER], keys, at + 30 * MINUTE) == undisturbed.read(
        [WIDER], keys, at + 30 * MINUTE
    )


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    """A loop that goes on after `tidemill features materialize` in another process does not write its older state over the newer."""
    tables = publish(tmp_path / "lake", ROWS)
    mine, other = opened(tmp_path, define(BUSY)), opened(tmp_path, define(BUSY))
    materialize(mine, tables, at_us=45 * MINUTE)
    tables = publish(tmp_path / "lake", MORE)
    materialize(other, tables, at_us=45 * MINUTE)
    assert materialize(mine, tables, at_us=46 * MINUTE) == []
    tables = publish(tmp_path / "lake", trips(("q", "a", 45, 45, 1.0)))
    assert [f.rows for f in materialize(mine, tables, at_us=46 * MINUTE)] == [1]
    assert read(tmp_path, BUSY, 46)["busy__count_1h"] == 4


def test_a_table_without_rows_gives_a_state_without_rows(tmp_path: Path) -> None:
    empty = FeatureView("none", BUSY.entity, TRIPS, [count(over="1h", hop="5m")])
    processor = opened(tmp_path, define(empty))
    assert [f.published for f in materialize(processor, {}, at_us=DAY_US)] == [True]
    assert materialize(processor, {}, at_us=DAY_US) == []
    assert read(tmp_path, empty, 2000) == {"none__count_1h": 0}
    assert [f.rows for f in materialize(processor, publish(tmp_path / "lake", ROWS), at_us=45 * MINUTE)] == [2]

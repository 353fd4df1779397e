"""Events that are followed count as the definitions say, whatever their order, and whoever is killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from os import kill
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.follow_kit import NOW, SKEW_US, Split, event, follower, open_store
from tests.support.redis_server import redis_server

from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions
from tidemill.core.errors import UnavailableError
from tidemill.core.instants import DAY_US
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.features.pieces import Mark
from tidemill.features.ports import MAX_VALUE_BYTES, OnlineStore
from tidemill.ingestion import EventQuarantine
from tidemill.ingestion.embedded import LogStream
from tidemill.ingestion.ports import Topic
from tidemill.testing.features import EXAMPLES, histories
from tidemill.testing.reference import DEFINITIONS, KEYED, MINUTE, VIEWS, Rows, arrow, reference, same

KEYS = [{"place": p, "lane": n} for p in ("a", "b", "nowhere", None) for n in (1, 2, None)]


def whole(row: Any) -> bool:
    """Whether a row has what an event must have."""
    return None not in (row["happened"], row["learned"], row["id"])


def row(n: int = 0, **values: Any) -> dict[str, Any]:
    return {"id": f"x{n}", "place": "a", "lane": 1, "happened": n, "learned": n, "delay": float(n), "word": None} | values


def compare(online: OnlineStore, rows: dict[str, Rows], at: int) -> None:
    found = OnlineReader(online, DEFINITIONS).read(VIEWS, KEYS, at)
    for key, answer in zip(KEYS, found, strict=True):
        expected: dict[str, Any] = {}
        for view in VIEWS:
            expected |= reference(view, rows[view.table.name], key, at)
        assert same(expected, answer), (key, at, expected, answer)


def test_any_events_equal_the_reference(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Late, early, duplicated, out of order, corrected; in one partition or three; followers that end without a commit."""

    @settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(), histories(), st.lists(st.integers(0, 40 * MINUTE), min_size=1, max_size=3), st.sampled_from([1, 3]), st.data())
    def check(keyed: Rows, plain: Rows, reads: list[int], partitions: int, data: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("follow")
        log = LogStream(folder)
        stream, online = Split(log, partitions) if partitions > 1 else log, SqliteOnlineStore(folder / "online.db")
        came: dict[str, list[Any]] = {"keyed": [r for r in keyed if whole(r)], "plain": [r for r in plain if whole(r)]}
        for name, rows in came.items():
            for start in range(0, len(rows), 4):
                stream.append(name, [event(r) for r in rows[start : start + 4]])
        first, turns = min(reads), data.draw(st.integers(0, 3), "turns")
        one = follower(online, stream, beside=log, now_us=first, batch=3)
        for _ in range(turns):
            one.turn()
        one = follower(online, stream, beside=log, now_us=first, batch=data.draw(st.sampled_from([1, 5, 100])))
        while one.turn():
            pass
        if partitions > 1 and any(_ties(rows) for rows in came.values()):
            return  # which of two revisions known at one time came last is not told across partitions
        for at in sorted(reads):
            compare(online, {name: list(rows) for name, rows in came.items()}, at)

    check()


def _ties(rows: list[Any]) -> bool:
    """Whether the order of arrival decides between two rows."""
    keys = sorted((r["learned"], str(r["id"]), json.dumps(r, sort_keys=True)) for r in rows)
    newest = sorted((r["happened"], r["learned"], json.dumps(r, sort_keys=True)) for r in rows)
    return any(a[:2] == b[:2] and a[2] != b[2] for a, b in [*pairwise(keys), *pairwise(newest)])


def stream_with(tmp_path: Path, *rows: Any, table: str = "keyed", now_us: int = 1) -> LogStream:
    stream = LogStream(tmp_path / "stream", ReplayClock(now_us))
    stream.append(table, [event(r) if isinstance(r, dict) else r for r in rows])
    return stream


def count(online: OnlineStore, at: int = NOW) -> Any:
    """Rows of place a within 12 minutes before `at`."""
    return OnlineReader(online, DEFINITIONS).read([DEFINITIONS.views["keyed_lanes"]], [{"place": "a", "lane": 1}], at)[0][
        "keyed_lanes__count_12m"
    ]


def test_a_future_event_is_quarantined_once_and_never_applied(tmp_path: Path) -> None:
    ahead = [row(1, happened=NOW + SKEW_US + 1), row(2, learned=NOW + SKEW_US + 1), row(3, happened=NOW + SKEW_US), row(4, happened=NOW)]
    stream, online = stream_with(tmp_path, *ahead, now_us=NOW), SqliteOnlineStore(tmp_path / "online.db")
    follower(online, stream).turn()
    for _ in range(2):  # a follower that was killed before its commit judges them again
        other = SqliteOnlineStore(tmp_path / "other.db")
        follower(other, stream, now_us=NOW + DAY_US).turn()
    assert EventQuarantine(stream, "keyed").counts() == {"future": 2}
    assert [q.offset for q in EventQuarantine(stream, "keyed").newest(9)] == [1, 0]
    assert "happened lies 1h ahead of its arrival" in EventQuarantine(stream, "keyed").newest(9)[1].reason
    assert [count(online, at) for at in (NOW - 1, NOW, NOW + SKEW_US, NOW + SKEW_US + 1)] == [0, 1, 1, 1], (
        "what is ahead within the skew waits"
    )
    stream.append("keyed", [event(row(1, happened=NOW - 1, learned=NOW))])
    follower(online, stream).turn()
    assert count(online) == 2, "sent again with the right time, it counts"


def test_a_record_that_no_state_can_take_is_set_aside_by_itself(tmp_path: Path) -> None:
    rows = [row(n, happened=NOW - n) for n in range(40)]
    rows[7]["word"] = "x" * (MAX_VALUE_BYTES + 1)
    rows[23]["delay"] = {"not": "a number"}
    stream, online = stream_with(tmp_path, *rows, b"junk"), SqliteOnlineStore(tmp_path / "online.db")
    one = follower(online, stream, batch=100)
    while one.turn():
        pass
    kept = EventQuarantine(stream, "keyed")
    assert {(q.offset, q.kind) for q in kept.newest(9)} == {(40, "unreadable"), (23, "invalid"), (7, "invalid")}
    assert count(online) == 38
    assert Mark.read(ViewProcessor(online, DEFINITIONS).versions()[0].mark).offsets == {"keyed": (41,)}


def test_a_new_version_begins_where_ingestion_is(tmp_path: Path) -> None:
    stream, online = stream_with(tmp_path, *(row(n, happened=NOW - n) for n in range(6))), SqliteOnlineStore(tmp_path / "online.db")
    one = follower(online, stream)
    one.followed[0].begun = lambda: (4,)
    one.turn()
    assert count(online) == 2
    processor = ViewProcessor(online, DEFINITIONS)
    processor.push("keyed", arrow([row(n, happened=NOW - n) for n in range(6)]))
    processor.commit()
    assert count(online) == 6, "the published table brings the others, and those that came by the stream count once"


def test_a_topic_that_was_begun_anew_is_taken_from_its_start(tmp_path: Path) -> None:
    stream, online = stream_with(tmp_path, *(row(n, happened=NOW - n) for n in range(6))), SqliteOnlineStore(tmp_path / "online.db")
    follower(online, stream).turn()
    other = LogStream(tmp_path / "other", ReplayClock(1))
    other.append("keyed", [event(row(n, happened=NOW - n)) for n in (20, 21)])
    one = follower(online, other)
    assert (one.turn(), one.turn()) == (2, 0)
    assert (count(online), one.followed[0].behind) == (8, 0)


class Away:
    """A stream that does not answer every third time."""

    def __init__(self, stream: LogStream) -> None:
        self.stream, self.asked = stream, 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.asked += 1
        if self.asked % 3 == 1:
            raise UnavailableError("the stream is away")
        return getattr(self.stream, name)  # type: ignore[no-any-return]


def test_a_stream_that_comes_back_is_followed_on(tmp_path: Path) -> None:
    stream, online = stream_with(tmp_path, *(row(n, happened=NOW - n) for n in range(6))), SqliteOnlineStore(tmp_path / "online.db")
    away: Any = Away(stream)
    one = follower(online, away, beside=stream, topics=[(KEYED, Topic(away, "keyed", "keyed"))])
    took = 0
    for _ in range(8):
        try:
            took += one.turn()
        except UnavailableError:
            continue
    assert (took, count(online)) == (6, 6)


def test_versions_of_one_view_are_each_as_far_as_they_say(tmp_path: Path) -> None:
    """A version that lags behind is caught up with; what the other one has is not counted again."""
    stream, online = stream_with(tmp_path, *(row(n, happened=NOW - n) for n in range(3))), SqliteOnlineStore(tmp_path / "online.db")
    follower(online, stream).turn()
    wider = replace(DEFINITIONS.views["keyed_lanes"], features=[DEFINITIONS.views["keyed_lanes"].aggregates[0]])
    changed = Definitions(tables=DEFINITIONS.tables, views={**DEFINITIONS.views, "keyed_lanes": wider})
    stream.append("keyed", [event(row(n, happened=NOW - n)) for n in (3, 4)])
    one = follower(online, stream, definitions=changed)
    while one.turn():
        pass
    marks = {Mark.read(s.mark).offsets["keyed"] for s in ViewProcessor(online, changed).versions() if s.view.table.name == "keyed"}
    assert marks == {(5,)}
    reader = OnlineReader(online, changed)
    assert reader.read([wider], [{"place": "a", "lane": 1}], NOW)[0]["keyed_lanes__count_12m"] == 5
    assert count(online) == 5


def _history(seed: int, n: int) -> list[dict[str, Any]]:
    """Events of an hour as streams bring them: late, early, twice, out of order, and corrected."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        at = int(NOW * i / n)
        late = rng.choice([0, 0, 0, rng.randrange(8 * MINUTE)])
        rows.append(
            row(i, place=rng.choice("ab"), lane=rng.choice([1, 2]), happened=at, learned=at + late, delay=rng.choice([None, rng.uniform(-9, 9)]),
                word=rng.choice("uv"))
        )  # fmt: skip
        if i and rng.random() < 0.3:
            again = dict(rng.choice(rows[-30:]))
            if rng.random() < 0.5:
                again |= {"learned": at + rng.randrange(MINUTE), "delay": rng.uniform(-9, 9)}
            rows.append(again)
    for i in range(0, len(rows) - 5, 5):
        part = rows[i : i + 5]
        rng.shuffle(part)
        rows[i : i + 5] = part
    return rows


def _fill(stream: LogStream, came: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in came.items():
        for start in range(0, len(rows), 50):
            stream.append(name, [event(r) for r in rows[start : start + 50]])
            stream.append(name, [b"junk", event(row(happened=10**15))])


def _killed(folder: Path, url: str, kills: int) -> int:
    """Follow in processes that are killed at random points; return how many were killed in the middle of work."""
    command = [sys.executable, "-m", "tests.support.follow_kit", str(folder), url]
    rng, amid = random.Random(7), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        turn_s = 0.05
        for _ in range(kills):
            zygote.stdin.write("go\n")
            zygote.stdin.flush()
            said = [zygote.stdout.readline().strip()]
            while not said[-1].startswith("pid"):
                said.append(zygote.stdout.readline().strip())
            pid, started = int(said[-1].split()[1]), time.monotonic()
            for _ in range(rng.randrange(3)):
                if zygote.stdout.readline().strip() != "turn":
                    break
                turn_s, started = min(0.5, time.monotonic() - started), time.monotonic()
            time.sleep(turn_s * rng.random() * 1.5)
            kill(pid, signal.SIGKILL)
            told = [zygote.stdout.readline().strip()]
            while told[-1] != "ended":
                told.append(zygote.stdout.readline().strip())
            amid += "done" not in told
        zygote.stdin.close()
    return amid


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=[pytest.mark.live, pytest.mark.xdist_group("redis")])])
def test_killed_at_20_random_points_the_state_is_the_undisturbed_one(tmp_path: Path, kind: str) -> None:
    came = {"keyed": _history(1, 300), "plain": _history(2, 300)}
    stream = LogStream(tmp_path / "stream", ReplayClock(NOW))
    _fill(stream, came)
    calm = SqliteOnlineStore(tmp_path / "calm.db")
    one = follower(calm, stream)
    while one.turn():
        pass
    before = {name: EventQuarantine(stream, name).counts() for name in came}

    def check(url: str) -> None:
        assert _killed(tmp_path / "stream", url, 20) >= 15, "most were killed before they were done"
        shaken = open_store(url)
        last = follower(shaken, stream)
        while last.turn():
            pass
        readers = [OnlineReader(store, DEFINITIONS) for store in (calm, shaken)]
        for at in (NOW, NOW + 3 * MINUTE, NOW - 10 * MINUTE):
            undisturbed, found = (reader.read(VIEWS, KEYS, at) for reader in readers)
            assert all(same(a, b) for a, b in zip(undisturbed, found, strict=True))
        compare(shaken, {name: list(rows) for name, rows in came.items()}, NOW + 3 * MINUTE)
        marks = [[(s.digest, Mark.read(s.mark).offsets) for s in ViewProcessor(store, DEFINITIONS).versions()] for store in (calm, shaken)]
        assert marks[0] == marks[1]
        assert {name: EventQuarantine(stream, name).counts() for name in came} == before

    if kind == "redis":
        with redis_server(tmp_path / "redis") as server:
            check(server.url)
    else:
        check(str(tmp_path / "online.db"))

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.connection import Connection
from tests.support.redis_server import Server, redis_server

from tidemill.adapters.redis.client import parse
from tidemill.adapters.redis.features import RedisOnlineStore, open_online
from tidemill.core.definitions import Definitions
from tidemill.core.errors import LostError, UnavailableError
from tidemill.features.embedded import OnlineLookup, OnlineReader, ViewProcessor
from tidemill.features.ports import BulkProcessor, OnlineStore
from tidemill.ingestion.embedded import LogStream
from tidemill.testing import lookup
from tidemill.testing.features import OnlineStoreContract
from tidemill.testing.processors import BulkProcessorContract, StreamProcessorContract
from tidemill.testing.reference import DEFINITIONS

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("redis")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


class TestRedisOnlineStore(OnlineStoreContract):
    @pytest.fixture
    def open_store(self, server: Server) -> Callable[[], OnlineStore]:
        project = uuid4().hex
        return partial(open_online, server.url, project)


class TestRedisOnlineStoreThatSendsAhead(OnlineStoreContract):
    """Every write is large."""

    @pytest.fixture
    def open_store(self, server: Server) -> Callable[[], OnlineStore]:
        project = uuid4().hex
        return partial(RedisOnlineStore, parse(server.url, project), stage_bytes=0)


class TestOnlineLookupOnRedis(lookup.FeatureLookupContract):
    """An entity that nobody has named, and values that are too old, are told apart here as on SQLite."""

    @pytest.fixture
    def open_(self, server: Server, tmp_path: Path) -> lookup.Open:
        def open_() -> tuple[ViewProcessor, OnlineReader, OnlineLookup, LogStream]:
            online, stream = open_online(server.url, uuid4().hex), LogStream(tmp_path / "stream")
            views = lookup.DEFINITIONS
            return ViewProcessor(online, views), OnlineReader(online, views), OnlineLookup(online, views, stream), stream

        return open_


def open_view_processor(url: str, project: str) -> ViewProcessor:
    return ViewProcessor(open_online(url, project), DEFINITIONS)


class TestViewProcessorOnRedis(BulkProcessorContract, StreamProcessorContract):
    @pytest.fixture
    def open_processor(self, server: Server) -> Callable[..., BulkProcessor]:
        last = ["none"]

        def open_(*, fresh: bool = False, definitions: Definitions = DEFINITIONS) -> BulkProcessor:
            if fresh:
                last[0] = uuid4().hex
            return ViewProcessor(open_online(server.url, last[0]), definitions)

        return open_

    @pytest.fixture
    def open_elsewhere(self, server: Server) -> Callable[[], BulkProcessor]:
        return partial(open_view_processor, server.url, uuid4().hex)


def states(n: int, body: bytes = b"x", view: str = "v") -> dict[tuple[str, str], bytes]:
    return {(view, f"[{i}]"): body for i in range(n)}


def commands(server: Server) -> dict[str, int]:
    """How often each command was called, those inside of scripts too."""
    client: Any = server.client()
    with client:
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}


@contextmanager
def counted_trips() -> Iterator[list[str]]:
    """How often this process turned from receiving to sending on a Redis connection."""
    trips: list[str] = []
    kind: Any = Connection
    send, receive = kind.send_packed_command, kind.read_response

    def sending(self: Any, *args: Any, **options: Any) -> Any:
        if trips[-1:] != ["sent"]:
            trips.append("sent")
        return send(self, *args, **options)

    def receiving(self: Any, *args: Any, **options: Any) -> Any:
        if trips[-1:] != ["received"]:
            trips.append("received")
        return receive(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "send_packed_command", sending)
        patch.setattr(Connection, "read_response", receiving)
        yield trips
    trips[:] = [t for t in trips if t == "sent"]


@pytest.mark.parametrize("keys", [1, 100, 9000])
def test_a_read_is_one_round_trip(server: Server, keys: int) -> None:
    store = open_online(server.url, uuid4().hex)
    for view in "abc":
        store.write(states(keys, view=view), {view: "1"})
    asked = [(view, f"[{i}]") for i in range(keys) for view in "abcd"]
    store.read(asked[:1])
    before = commands(server)
    with counted_trips() as trips:
        found = store.read(asked)
    after = commands(server)
    assert found == [b"x", b"x", b"x", None] * keys
    sent = {name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)}
    mine = ("hello", "client|setinfo", "info")  # of the client that counts
    inside = ("hget", "mget", "zscore", "hexists", "time")
    outside = {name: n for name, n in sent.items() if name not in (*inside, *mine)}
    assert outside == {"evalsha": -(-4 * keys // 4000)}
    assert sent["mget"] == -(-4 * keys // 4000)
    assert trips == ["sent"]


def test_projects_on_one_server_do_not_see_each_other(server: Server) -> None:
    one, other = (open_online(server.url + "&project=" + name, "ignored") for name in ("one", "one:s1"))
    one.write(states(3), {"v": "one"})
    other.write(states(2, b"y"), {"v": "other"})
    other.clear("v")
    assert one.read([("v", "[0]")]) == [b"x"]
    assert one.cursors() == {"v": "one"}
    assert other.cursors() == {}


def test_what_is_due_expires_by_itself(server: Server) -> None:
    store = open_online(server.url, project := uuid4().hex)
    with server.client() as client:
        now_us = client.time()[0] * 1_000_000
        due = {("v", "[0]"): now_us + 60_000_000, ("v", "[1]"): now_us + 2_500_000, ("v", "[2]"): now_us - 60_000_000}
        store.write(states(4), {}, due)
        expires = [client.pexpiretime(f"tidemill:{{{project}}}:s1:v:[{i}]") for i in range(4)]
        assert expires[0] == (now_us + 60_000_000) // 1000
        assert expires[2:] == [-1, -1]
        for _ in range(500):
            if not client.exists(f"tidemill:{{{project}}}:s1:v:[1]"):
                break
            time.sleep(0.02)
    assert open_online(server.url, project).read([("v", f"[{i}]") for i in range(4)]) == [b"x", None, b"x", b"x"]
    assert store.lost() == []


def test_a_flush_is_noticed_by_those_who_know_better(server: Server) -> None:
    writer, reader = (open_online(server.url, project := uuid4().hex) if i == 0 else open_online(server.url, project) for i in range(2))
    writer.write(states(3), {"v": "1"})
    assert reader.read([("v", "[0]")]) == [b"x"]
    with server.client() as client:
        client.flushall()
    with pytest.raises(LostError, match="materialize"):
        reader.read([("v", "[0]")])
    with pytest.raises(LostError, match="nothing was written"):
        writer.write(states(1), {"v": "2"})
    assert open_online(server.url, project).cursors() == {}
    writer.write(states(3), {"v": "3"})
    assert reader.read([("v", "[0]")]) == [b"x"]


@pytest.mark.parametrize("what", ["state", "index", "meta"])
def test_an_evicted_key_is_never_answered_as_none(server: Server, what: str) -> None:
    store = open_online(server.url, project := uuid4().hex)
    store.write(states(3) | states(1, view="w"), {"v": "1"})
    base = f"tidemill:{{{project}}}:"
    with server.client() as client:
        assert client.delete(base + {"state": "s1:v:[1]", "index": "iv", "meta": "meta"}[what]) == 1
    fresh = open_online(server.url, project)
    if what != "index":
        with pytest.raises(LostError, match="lost"):
            fresh.read([("v", "[0]"), ("v", "[1]")])
    if what != "meta":
        assert fresh.read([("v", "[0]"), ("w", "[0]"), ("w", "[8]")]) == [b"x", b"x", None]
        assert fresh.lost() == ["v"]
    if what == "index":
        with pytest.raises(LostError, match="lost"):
            fresh.read([("v", "nobody")])


def test_a_server_under_memory_pressure_loses_nothing_silently(tmp_path: Path) -> None:
    with redis_server(tmp_path, options=("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-random")) as small:
        store = open_online(small.url, "p")
        store.write(states(200, os.urandom(4000)), {})
        for i in range(40):
            with small.client() as client:
                client.set(f"other{i}", bytes(100_000))
        with small.client() as client:
            assert client.info("stats")["evicted_keys"] > 0
        missing = 0
        for key in states(200):
            try:
                assert store.read([key]) != [None]
            except LostError:
                missing += 1
        assert missing


def test_an_older_copy_is_noticed(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        writer, reader = open_online(server.url, "p"), open_online(server.url, "p")
        writer.write(states(3), {"v": "1"})
        with server.client() as client:
            client.save()
        writer.write(states(3, b"y"), {"v": "2"})
        assert reader.read([("v", "[0]")]) == [b"y"]
        server.kill()
        server.start()
        with pytest.raises(LostError, match="older copy"):
            reader.read([("v", "[0]")])
        with pytest.raises(LostError, match="nothing was written"):
            writer.write(states(1, b"z"), {"v": "3"})


_WRITER = """
import sys
from tidemill.adapters.redis.client import parse
from tidemill.adapters.redis.features import RedisOnlineStore
store = RedisOnlineStore(parse(sys.argv[1], "p"), stage_bytes=int(sys.argv[2]))
n = int(store.cursors().get("v", "0"))
while True:
    n += 1
    store.write({("v", f"[{i}]"): b"%d" % n for i in range(5_000)}, {"v": str(n)})
    print(n, flush=True)
"""


def _whole(store: OnlineStore, at_least: int, *, written: bool = False) -> int:
    """The one write that all 5,000 states are of; while more is `written`, the cursor, read after them, may be of a later one."""
    found = set(store.read([("v", f"[{i}]") for i in range(5_000)]))
    assert len(found) == 1
    (body,) = found
    assert body is not None
    cursor = int(store.cursors()["v"] or -1)
    assert cursor >= int(body) if written else cursor == int(body)
    assert int(body) >= at_least
    return int(body)


@pytest.mark.slow
@pytest.mark.parametrize("stage_bytes", [0, 1 << 30])
def test_a_killed_writer_leaves_a_whole_state(server: Server, stage_bytes: int) -> None:
    with server.client() as client:
        client.flushall()
    last = 0
    for turn in range(5):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, server.url, str(stage_bytes)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(turn + 1):
            last = int(process.stdout.readline())
            _whole(open_online(server.url, "p"), last, written=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = _whole(open_online(server.url, "p"), last)
    store = RedisOnlineStore(parse(server.url, "p"), stage_bytes=0)
    store.write({("v", "one"): b"more"}, {})
    with server.client() as client:
        assert not client.keys("tidemill:{p}:w*")


@pytest.mark.slow
@pytest.mark.parametrize("stage_bytes", [0, 1 << 30])
def test_a_killed_server_comes_back_whole(tmp_path: Path, stage_bytes: int) -> None:
    with redis_server(tmp_path, aof=True) as server:
        last = 0
        for turn in range(4):
            process = subprocess.Popen(
                [sys.executable, "-c", _WRITER, server.url, str(stage_bytes)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            assert process.stdout is not None
            for _ in range(turn + 1):
                last = int(process.stdout.readline())
            server.kill()
            for line in process.stdout:
                last = int(line)
            process.wait()
            with pytest.raises(UnavailableError, match="does not answer"):
                open_online(server.url, "p").read([("v", "[0]")])
            server.start()
            last = _whole(open_online(server.url, "p"), last)

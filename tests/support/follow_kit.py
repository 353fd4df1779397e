"""A follower over real stores, and a process of it that can be killed again and again without waiting for imports.

    python -m tests.support.follow_kit FOLDER STORE_URL

reads lines: each forks a follower, which takes turns and tells of each on standard output until it is killed, or done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tidemill.adapters.redis.features import open_online
from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Table
from tidemill.features.embedded import SqliteOnlineStore, ViewProcessor
from tidemill.features.ports import OnlineStore
from tidemill.ingestion import EventQuarantine
from tidemill.ingestion.embedded import LogStream
from tidemill.ingestion.ports import Extent, Record, Stream, Topic
from tidemill.retraining.follow import Followed, Follower
from tidemill.testing.reference import DEFINITIONS, MINUTE

SKEW_US = 60 * MINUTE
NOW = 60 * MINUTE
BATCH = 8


class Split:
    """A `Stream` of a topic's partitions, each a topic of its own in another one; an append takes the next partition."""

    def __init__(self, stream: Stream, partitions: int) -> None:
        self._stream, self._n, self._turn = stream, partitions, 0

    def append(self, topic: str, bodies: Sequence[bytes]) -> int:
        self._turn += 1
        return self._stream.append(f"{topic}-{self._turn % self._n}", bodies)

    def read(self, topic: str, offset: int, *, limit: int = 10_000, partition: int = 0) -> list[Record]:
        found = self._stream.read(f"{topic}-{partition}", offset, limit=limit)
        return [Record(r.offset, r.body, r.at_us, partition) for r in found]

    def extent(self, topic: str) -> list[Extent]:
        return [self._stream.extent(f"{topic}-{i}")[0] for i in range(self._n)]


def event(row: Mapping[str, Any]) -> bytes:
    """A row of the test tables as it stands in a topic; what is null is left out."""
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()


def follower(
    online: OnlineStore,
    stream: Stream,
    *,
    definitions: Definitions = DEFINITIONS,
    beside: Stream | None = None,
    now_us: int = NOW,
    batch: int = BATCH,
    skew_us: int = SKEW_US,
    topics: Iterable[tuple[Table, Topic]] = (),
) -> Follower:
    """A follower of a topic for each table, as a new process would have it. States that are not there are begun empty."""
    processor = ViewProcessor(online, definitions)
    found = list(topics) or [(table, Topic(stream, name, name)) for name, table in definitions.tables.items()]
    followed = [Followed(t, topic, EventQuarantine(beside or stream, t.name, topic.id), skew_us) for t, topic in found]
    made = Follower(processor, followed, ReplayClock(now_us), batch=batch)
    for state in processor.versions():
        if state.wanted and state.status != "published":
            processor.reset(state.view.name)
            processor.commit()
            processor.publish({state.digest: True})
    return made


def open_store(url: str) -> OnlineStore:
    return open_online(url, "killed") if url.startswith("redis:") else SqliteOnlineStore(url)


def main(folder: Path, url: str) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            work(folder, url)
            os._exit(0)
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\n")


def work(folder: Path, url: str) -> None:
    one = follower(open_store(url), LogStream(folder, ReplayClock(NOW)))
    while one.turn():
        os.write(1, b"turn\n")
    os.write(1, b"done\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

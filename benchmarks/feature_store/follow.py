"""stream_follow: JSON events of a topic, a second's worth at a time, into six windowed features, each commit durable (events a second).

A quarter of `stream_update`'s events and three rounds: every event is a line of JSON, in a log and in Kafka, and is parsed again in every round.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data import EVENTS, STREAM_VIEW, Sizes, micros, stamps
from feature_store.online import BATCH, FloorTiles, expected, same
from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.ingestion import EventQuarantine
from tidemill.ingestion.embedded import LogStream
from tidemill.ingestion.ports import Stream, Topic
from tidemill.retraining.follow import Followed, Follower, collect_less

DURABLE = "WAL, synchronous=NORMAL, a commit every 50,000 events"


def stream_follow(home: Path, folder: Path, sizes: Sizes, rounds: int, kafka: str) -> None:
    """The same events from the embedded log and, where there is a broker at `kafka`, from a topic; the floor reads lines of a file."""
    rows = pq.read_table(home / "events").slice(0, sizes.follow)
    known, turn = micros(rows["created"]), iter(range(10_000))
    keys = np.unique(rows["key"].to_numpy())[:: max(1, sizes.keys // 2_000)]
    truth = expected(rows, known, keys, int(known[-1]))
    bodies = _bodies(rows)
    streams: dict[str, Stream] = {"tidemill-log": LogStream(folder / "followed", ReplayClock(int(known[-1])))}
    if kafka:
        from tidemill.adapters.kafka.ingestion import open_stream

        streams["tidemill-kafka"] = open_stream(f"kafka://{kafka}/bench{rows.num_rows}?timeout=60s", "")
    for stream in streams.values():
        for start in range(0, len(bodies), BATCH):
            stream.append(EVENTS.name, bodies[start : start + BATCH])
    (folder / "events.jsonl").write_bytes(b"\n".join(bodies))
    spent, failures = kit.Spent(), dict[str, str]()

    def ours(tool: str) -> Callable[[], float]:
        def measure() -> float:
            path, clock = folder / f"follow-{next(turn)}.db", ReplayClock(0)
            one = _follower(path, streams[tool], clock)
            wall = spent.seconds(tool, lambda: _run(one, clock, known))
            definitions = Definitions(views={STREAM_VIEW.name: STREAM_VIEW})
            got = OnlineReader(SqliteOnlineStore(path), definitions).read([STREAM_VIEW], [{"key": int(k)} for k in keys], int(known[-1]))
            same(truth, [[answer[c] for answer in got] for c in STREAM_VIEW.columns])
            return rows.num_rows / wall

        return measure

    def by_hand() -> float:
        floor = FloorTiles(folder / f"follow-floor-{next(turn)}.db")
        wall = spent.seconds("floor-log", lambda: _by_hand(folder / "events.jsonl", floor))
        same(truth, floor.read(keys, int(known[-1])))
        return rows.num_rows / wall

    before = gc.get_threshold()
    collect_less()  # as `tidemill features follow` does
    found = kit.interleave({**{tool: ours(tool) for tool in streams}, "floor-log": by_hand}, rounds, failures=failures)
    gc.unfreeze()
    gc.set_threshold(*before)
    facts = {tool: {"durability": DURABLE} for tool in found}
    kit.report("stream_follow", found, "events/s", better="higher", floor="floor-log", extra=spent.facts(**facts), failures=failures)


def _bodies(rows: pa.Table) -> list[bytes]:
    columns = {"event": rows["event"].to_pylist(), "key": rows["key"].to_pylist(), "amount": rows["amount"].to_pylist()}
    columns |= {name: micros(rows[name]).tolist() for name in ("ts", "created")}
    return [json.dumps(dict(zip(columns, row, strict=True))).encode() for row in zip(*columns.values(), strict=True)]


def _follower(path: Path, stream: Stream, clock: ReplayClock) -> Follower:
    processor = ViewProcessor(SqliteOnlineStore(path), Definitions(views={STREAM_VIEW.name: STREAM_VIEW}))
    (state,) = processor.versions()
    processor.reset(STREAM_VIEW.name)
    processor.commit()
    processor.publish({state.digest: True})
    beside = EventQuarantine(LogStream(path.parent / "beside"), EVENTS.name, "bench")
    return Follower(processor, [Followed(EVENTS, Topic(stream, EVENTS.name, "bench"), beside, skew_us=0)], clock, batch=BATCH)


def _run(one: Follower, clock: ReplayClock, known: Sequence[int]) -> None:
    """Take all events, the clock being where the last of a batch becomes known."""
    done = 0
    while done < len(known):
        clock.advance_to(int(known[min(done + BATCH, len(known)) - 1]))
        done += one.turn()


def _by_hand(path: Path, floor: FloorTiles) -> None:
    with path.open("rb") as lines:
        while some := [json.loads(line) for _, line in zip(range(BATCH), lines, strict=False)]:
            clocks = {name: stamps(np.array([r[name] for r in some]) // 1_000_000 * 1_000_000) for name in ("ts",)}
            floor.push(
                pa.table(
                    {"event": [r["event"] for r in some], "key": [r["key"] for r in some], "amount": [r["amount"] for r in some], **clocks}
                )
            )

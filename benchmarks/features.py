"""What features cost, offline and online, beside Feast and hand-written floors that give the same answers.

    python benchmarks/features.py [TASK …] [--json] [--quick]

Made-up data (`feature_store/data.py`): three views of a million rows of 50,000 keys over 90 days with ten features, 5 % of the rows
late and 1 % corrected; 100,000 spine rows; 5 million events. Tasks:

    training_set         the spine with the features of all views, on both clocks
    window_two_clocks    mean and count over 3 h with a hop of 5 m, 330,000 spine rows; window_ten: ten windows in one pass;
                         window_busy: 500 keys instead of 50,000; window_50m: ten times the events in a process of 4 GB
    read_1, read_100     features of 1 and of 100 keys, from SQLite and from Redis
    http_1, http_16      POST /get-online-features at 1 and 16 connections
    materialize          a million rows of ten features to their newest values in an online store
    stream_update        events into six windowed features; stream_follow: from JSON in the embedded log and in Kafka, offsets committed with the state
    scaling_rows, scaling_keys, scaling_windows   how the window grows (docs/assets/scaling.svg is drawn from them)
    flights_*            the demo's features, for every flight of 2013 (`pip install 'tidemill[demo]'`)

Every answer is compared with the truth row by row; a wrong one is no figure. Needs redis-server for Redis, wrk for HTTP, and for Kafka java and the
jars that `tests/support/kafka_server.py` speaks of.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import kit
import servers
from feature_store import flights, follow, gateway, online, peer, scaling, training, windows
from feature_store.data import Sizes, make_events, make_views, make_wide


def offline(options: kit.Options, folder: Path, sizes: Sizes, feast: peer.Feast | None) -> None:
    """Training sets and windows."""
    rounds = 3 if options.quick else 5
    if options.wants("training_set"):
        training.training_set(folder, feast, rounds)
    for task, keys, count in (("window_two_clocks", sizes.keys, 1), ("window_ten", sizes.keys, 10), ("window_busy", sizes.keys // 100, 1)):
        if options.wants(task):
            windows.in_memory(task, make_events(folder, sizes.events, keys, sizes.window_spine), count, rounds)
    if options.wants("window_50m"):
        large = (sizes.large_events, sizes.keys, sizes.window_spine)
        windows.large("window_50m", folder, large, rounds=1 if options.quick else 3, memory_mb=1536 if options.quick else 4096)
    for task, plan in scaling.PLANS.items():
        if options.wants(task):
            plan(task, folder, sizes, quick=options.quick)


def by_key(options: kit.Options, folder: Path, sizes: Sizes, feast: peer.Feast | None, redis_port: int | None) -> None:
    """Online stores."""
    rounds = 3 if options.quick else 5
    if any(options.wants(t) for t in ("read_1", "read_100")):
        readers = online.Readers(folder, redis_port, feast)
        for task, size in (("read_1", 1), ("read_100", 100)):
            if options.wants(task):
                online.read(task, readers, size, sizes, rounds)
    http = [task for task in ("http_1", "http_16") if options.wants(task)]
    if http:
        gateway.http(folder, redis_port, feast, rounds, 2 if options.quick else 5, http)
    if options.wants("materialize"):
        online.materialize(folder, redis_port, feast, rounds)
    if options.wants("stream_update"):
        home = make_events(folder, sizes.events, sizes.keys, sizes.window_spine)
        online.stream_update(home, folder, sizes, rounds)
    if options.wants("stream_follow"):
        home = make_events(folder, sizes.events, sizes.keys, sizes.window_spine)
        with servers.kafka(folder / "kafka") as broker:
            follow.stream_follow(home, folder, sizes, min(rounds, 3), broker)


def main() -> None:
    """Measure what was asked for."""
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "duckdb", "numpy", "pyarrow", "redis")
    sizes = Sizes.of(quick=options.quick)
    with kit.scratch() as folder, ExitStack() as stack:
        if not options.tasks or any(not t.startswith("flights") for t in options.tasks):
            make_views(folder, sizes)
            make_wide(folder, sizes)
            feast = peer.feast(folder)
            if feast is not None:
                stack.callback(feast.close)
            redis_port = stack.enter_context(servers.redis(folder / "redis")) if shutil.which("redis-server") else None
            offline(options, folder, sizes, feast)
            by_key(options, folder, sizes, feast, redis_port)
        flights.run(options, folder)


if __name__ == "__main__":
    main()

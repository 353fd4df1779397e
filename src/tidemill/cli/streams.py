"""tidemill features follow, quarantine: events of streams into online state, and those that were set aside."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from tidemill.cli.options import INSTANT, json_option, key_of, limit_option, opened
from tidemill.cli.output import show_facts, show_rows
from tidemill.core.errors import ConflictError, NotFoundError, not_found
from tidemill.core.instants import SECOND_US, parse_duration

if TYPE_CHECKING:
    from tidemill.core.definitions import Table
    from tidemill.platform.root import Platform
    from tidemill.retraining.follow import Followed

Where = tuple[Path, Sequence[str]]
_WAIT_S = 5.0
"""How long to wait for another follower to end."""
_COLUMNS = ["table", "topic", "taken", "behind", "quarantined"]


@click.command("follow")
@click.option("--once", is_flag=True, help="Take what is there, and stop.")
@json_option
@click.pass_obj
def follow_command(where: Where, once: bool, as_json: bool) -> None:
    """Take events of streams into the online state as they come, until Ctrl-C. `tidemill up` does it by itself.

    Each event counts exactly once, whoever is killed and starts again. Events that are no rows, or whose times lie in the future, are set
    aside: `tidemill features quarantine` lists them. Published tables are taken as well.
    """
    stop = threading.Event()
    with opened(*where) as platform:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        found = run(platform, stop, once=once, tell=lambda all_: click.echo(_line(all_), err=True))
    rows = [_facts(one) for one in found]
    show_rows(rows, _COLUMNS, as_json=as_json)


def run(
    platform: Platform, stop: threading.Event, *, once: bool = False, tell: Callable[[Sequence[Followed]], None] = lambda _: None
) -> list[Followed]:
    """Follow the project's streams until `stop` is set. Raises `NotFoundError` without any, `ConflictError` when another process does."""
    from tidemill.retraining.follow import Follower, collect_less, feeding, followed, noting

    settings = platform.config.stream
    topics = followed(platform.loop, platform.topics, platform.stream, skew_us=parse_duration(settings.skew))
    if not topics:
        raise NotFoundError(
            "no feature view reads a table with a stream; give a table the source 'push:' or that of a topic, kafka://host:port/topic"
        )
    follower = Follower(platform.processor, topics, platform.clock, batch=settings.batch, writing=platform.writing)
    pause_s, feed_s = (parse_duration(text) / SECOND_US for text in (settings.pause, settings.feed))
    keep, last = noting(platform.loop), [0]

    def note(all_: Sequence[Followed]) -> None:
        keep(all_)
        if sum(one.taken for one in all_) > last[0]:
            last[0] = sum(one.taken for one in all_)
            tell(all_)

    with _alone(platform):
        collect_less()
        follower.run(stop, feed=feeding(platform.loop), note=note, pause_s=pause_s, feed_s=feed_s, once=once)
    return topics


@contextmanager
def _alone(platform: Platform) -> Iterator[None]:
    """Hold the follower's lock, which the one before may be about to let go of."""
    until = monotonic() + _WAIT_S
    while True:
        with platform.following() as mine:
            if mine:
                yield
                return
        if monotonic() > until:
            raise ConflictError("another process follows the streams of this project (`tidemill up` does); stop it first")
        sleep(0.05)


def _line(all_: Sequence[Followed]) -> str:
    return "   ".join(f"{one.table.name}: {one.taken:,} events, {one.behind:,} behind" for one in all_)


def _facts(one: Followed) -> dict[str, Any]:
    counts = one.quarantine.counts()
    return {"table": one.table.name, "topic": one.topic.id, "taken": one.taken, "behind": one.behind, "quarantined": sum(counts.values())}


@click.command("quarantine")
@click.argument("table", required=False)
@limit_option
@json_option
@click.pass_obj
def quarantine_command(where: Where, table: str | None, limit: int, as_json: bool) -> None:
    """List events of TABLE (all tables without one) that were set aside, newest first, with the reason: they are neither online nor in the table.

    An event whose time lies too far in the future can be sent again with the right one.
    """
    from tidemill.ingestion import EventQuarantine

    with opened(*where) as platform:
        tables = platform.definitions.tables
        if table is not None and table not in tables:
            raise not_found("table", table, tables)
        rows = [
            {
                "table": name,
                "kind": q.kind,
                "reason": q.reason,
                "came_us": q.came_us,
                "place": f"{q.partition}:{q.offset}",
                **({"topic": q.topic, "body": _shown(tables[name], q.body)} if as_json else {}),
            }
            for name in ([table] if table else platform.topics)
            for q in EventQuarantine(platform.stream, name).newest(limit)
        ]
    rows = sorted(rows, key=lambda row: -row["came_us"])[:limit]
    show_rows(rows, ["table", "kind", "reason", "came_us", "place"], as_json=as_json, empty="no event was set aside")


def _shown(table: Table, body: str) -> Any:
    """The event, personal columns hidden; one of which nobody knows where they are is not shown."""
    from tidemill.core.privacy import HIDDEN, hide

    if not table.personal:
        return body
    try:
        found = json.loads(body)
    except ValueError:
        return HIDDEN
    return json.dumps(hide(found, [table])) if isinstance(found, dict) else HIDDEN


@click.command("read")
@click.argument("view")
@click.option("--key", "keys", required=True, metavar="JSON", help='The entity key, for example \'{"origin": "JFK"}\'.')
@click.option("--at", "at_us", type=INSTANT, default=None, help="At this time, up to a day ago, instead of now.")
@json_option
@click.pass_obj
def read_command(where: Where, view: str, keys: str, at_us: int | None, as_json: bool) -> None:
    """Show the values of VIEW for one key as they are online now, as a service would read them."""
    with opened(*where) as platform:
        views = platform.definitions.views
        if view not in views:
            raise not_found("feature view", view, views)
        key = key_of(keys, views[view].keys)
        (found,) = platform.reader.read([views[view]], [key], platform.clock.now_us() if at_us is None else at_us)
    show_facts(found, as_json=as_json)


COMMANDS = (follow_command, quarantine_command, read_command)

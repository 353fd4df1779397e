"""Try a retraining policy on history before you trust it.

The same stage functions run as in the present; only the `Clock` is another. Several policies go through history side by
side: data, features and labels are made once, and each policy pays for its own trainings and predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, from_json, insert_once, to_json, upsert
from tidemill.retraining import loop as stages
from tidemill.retraining import summary
from tidemill.retraining.ports import Loop
from tidemill.retraining.world import Requests, World, requests
from tidemill.serving import Plan, Scorer

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Lane:
    """One policy on its way through history."""

    name: str
    loop: Loop
    scorer: Scorer


@dataclass(slots=True)
class Replay:
    """A replay under way: what is shared, and one lane per policy. `tick_us` is the length of one turn of the loop."""

    service: Service
    clock: ReplayClock
    world: World
    plan: Plan
    lanes: list[Lane]
    primary: str
    from_us: int
    until_us: int
    first_us: int
    tick_us: int = DAY_US
    ingest: bool = True
    maintain_every: int = 30
    id: str = field(default="")

    def __post_init__(self) -> None:
        if self.until_us <= self.from_us:
            raise InvalidError(f"the replay would end {format_instant(self.until_us)} before it starts {format_instant(self.from_us)}")
        if not self.id:
            self.id = ids.derive("replay", self.service.name, self.from_us, self.until_us, [lane.name for lane in self.lanes])

    @property
    def main(self) -> Lane:
        """The lane whose loop also does what all share."""
        return next(lane for lane in self.lanes if lane.name == self.primary)


def run(replay: Replay, progress: Progress = lambda _done, _of, _what: None) -> dict[str, Any]:
    """Go through history tick by tick and return the summary; a replay that was killed goes on behind its last whole tick."""
    ledger = replay.main.loop.ledger
    start = _resume(ledger, replay)
    total = -(-(replay.until_us - replay.first_us) // replay.tick_us)
    now = start
    while now < replay.until_us:
        until = min(now + replay.tick_us, replay.until_us)
        if now < replay.from_us < until:
            until = replay.from_us
        _tick(replay, now, until)
        _mark(ledger, replay, until)
        now = until
        progress((now - replay.first_us) // replay.tick_us, total, format_instant(now)[:10])
    report = summary.summarise(
        replay.id, replay.service, [(lane.name, lane.loop) for lane in replay.lanes], replay.from_us, replay.until_us, replay.primary
    )
    _save(ledger, f"replay:{replay.id}", report, replay.until_us)
    return report


def _tick(replay: Replay, now: int, until: int) -> None:
    loop, service = replay.main.loop, replay.service
    serving = now >= replay.from_us
    if serving or until > replay.from_us - horizon_us(loop.definitions):
        _stream(replay, now, until)
    if serving:
        _serve(replay, now, until)
    loop.processor.commit()
    replay.clock.advance_to(until)
    if replay.ingest:
        reports = stages.ingest(loop)
        stages.learn_labels(loop, reports)
        _share_batches(replay, until)
        stages.maintain(loop, every=replay.maintain_every)
    if until < replay.from_us:
        return
    for lane in replay.lanes:
        if serving and _reached(replay, lane, "monitored") < until:
            stages.monitor(lane.loop, service, now, until)
            _reach(replay, lane, "monitored", until)
        stages.reconcile(lane.loop, service)
        lane.scorer.refresh()


def _share_batches(replay: Replay, until: int) -> None:
    """Let each policy's ledger know what was published by now; the data itself is shared."""
    batch, main = schema.batch, replay.main.loop.ledger
    for ledger in (lane.loop.ledger for lane in replay.lanes if lane.loop.ledger is not main):
        with ledger.read() as db:
            known = set(db.execute(sa.select(batch.c.id)).scalars())
        with main.read() as db:
            new = set(db.execute(sa.select(batch.c.id).where(batch.c.at_us <= until)).scalars()) - known
            rows = [dict(row) for row in db.execute(sa.select(batch).where(batch.c.id.in_(new))).mappings()] if new else []
        if rows:
            with ledger.write(durable=False) as db:
                for row in rows:
                    insert_once(db, batch, row)


def _stream(replay: Replay, now: int, until: int) -> None:
    used = {view.table.name for view in replay.service.views}
    for name in sorted(used & set(replay.world)):
        rows = replay.world[name].known_between(now, until)
        if rows.num_rows:
            replay.main.loop.processor.push(name, rows)


def _serve(replay: Replay, now: int, until: int) -> None:
    """Answer what is due in [now, until). A tick that is taken again has answered: whoever went live at its end must not answer as well."""
    waiting = [lane for lane in replay.lanes if _reached(replay, lane, "served") < until]
    asked = requests(replay.world, replay.service, now, until) if waiting else Requests((), (), ())
    inputs = replay.plan.inputs(asked.rows, asked.at_us) if asked.ids else []
    for lane in waiting:
        if asked.ids:
            lane.scorer.answer(asked.rows, inputs, asked.ids, asked.at_us)
        _reach(replay, lane, "served", until)


def _reached(replay: Replay, lane: Lane, stage: str) -> int:
    """Up to where a lane is through with a stage."""
    return int(_load(lane.loop.ledger, f"replay-{stage}:{replay.id}").get("until_us", replay.first_us))


def _reach(replay: Replay, lane: Lane, stage: str, until: int) -> None:
    """Note it in the lane's own ledger, so that it is there whenever what the lane decided behind it is."""
    _save(lane.loop.ledger, f"replay-{stage}:{replay.id}", {"until_us": until}, until, durable=False)


def horizon_us(definitions: Definitions) -> int:
    """How far back online state reaches: the longest window or ttl of all views."""
    spans = [max(a.over_us + a.hop_us, a.ttl_us) for view in definitions.views.values() for a in view.aggregates]
    return max(spans, default=0)


def _resume(ledger: Ledger, replay: Replay) -> int:
    done = _load(ledger, f"replay-tick:{replay.id}").get("until_us")
    if done is None:  # from now on the runs of this ledger are a replay's
        _mark(ledger, replay, replay.first_us)
        done = replay.first_us
    replay.clock.advance_to(max(done, replay.clock.now_us()))
    for lane in replay.lanes:
        lane.scorer.refresh()
    return int(done)


def _mark(ledger: Ledger, replay: Replay, until: int) -> None:
    _save(ledger, f"replay-tick:{replay.id}", {"until_us": until}, until)


def _load(ledger: Ledger, name: str) -> dict[str, Any]:
    with ledger.read() as db:
        found = from_json(db.execute(sa.select(schema.state.c.value).where(schema.state.c.name == name)).scalar())
    return dict(found) if found else {}


def _save(ledger: Ledger, name: str, value: Mapping[str, Any], at_us: int, *, durable: bool = True) -> None:
    with ledger.write(durable=durable) as db:
        upsert(db, schema.state, {"name": name, "value": to_json(value), "at_us": at_us})

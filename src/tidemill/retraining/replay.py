"""Try a retraining policy on history before you trust it.

The same stage functions run as in the present; only the `Clock` is another. Several policies go through history side by
side: data, features and labels are made once, and each policy pays for its own trainings and predictions.

A turn has two halves. In the first, every lane answers the turn's requests, which reads nothing that ingestion writes; in the second,
when everything that became known is published, every lane watches and reconciles, which writes nothing that another lane reads. What a lane reads
then it reads as of the turn: tables at the turn's snapshots, labels and batches by their time. So lanes may be processes of their own that lag
behind, and what they end in does not depend on who was faster.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from tidemill.core import ids
from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, fact, insert_once, to_json, upsert
from tidemill.retraining import loop as stages
from tidemill.retraining import summary
from tidemill.retraining.ports import Loop
from tidemill.retraining.world import Requests, World, requests
from tidemill.serving import Plan, Scorer

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
NOTHING = Requests((), (), ())


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a replay: history in [now, until).

    `asked` and `inputs` are what is due in it; `serving`: whether anything may be. `pins`: the tables' snapshots at its end.
    """

    replay_id: str
    first_us: int
    from_us: int
    now: int
    until: int
    asked: Requests = NOTHING
    inputs: Sequence[tuple[Any, ...]] = ()
    pins: Mapping[str, int] = field(default_factory=dict)

    @property
    def serving(self) -> bool:
        """Whether the turn lies behind the first instant to serve."""
        return self.now >= self.from_us


class Lane(Protocol):
    """One policy on its way through history, in this process or another.

    `serve` and `settle` may return before they are done. What they were told is kept then: after `wait` it gets done whoever is killed.
    """

    name: str

    def resume(self, turn: Turn) -> int:
        """Set the lane's clock to the begin of a turn and see who serves; return up to when everything was answered before."""
        ...

    def serve(self, turn: Turn) -> None:
        """Answer what is due; a turn that is taken again has answered."""
        ...

    def settle(self, turn: Turn) -> None:
        """Watch and reconcile, once all that was known by the turn's end is published."""
        ...

    def wait(self) -> None:
        """Return when the lane does not lag too far behind. Raises what went wrong."""
        ...

    def finish(self) -> None:
        """Return when all that the lane was told is done. Raises what went wrong."""
        ...

    def came_to(self, from_us: int, until_us: int) -> dict[str, Any]:
        """What the policy served and cost, once all that it was told is done."""
        ...


@dataclass(slots=True)
class LocalLane:
    """A lane in this process. `shared` is the ledger of those who ingest, when that is not the lane's own; so is their clock `clock`."""

    name: str
    loop: Loop
    scorer: Scorer
    clock: ReplayClock | None = None
    shared: Ledger | None = None

    def resume(self, turn: Turn) -> int:
        """See `Lane`."""
        self._advance(turn.now)
        self.scorer.refresh()
        return self._reached(turn, "served")

    def serve(self, turn: Turn) -> None:
        """See `Lane`. Whoever went live at the end of a turn must not answer it as well."""
        if self._reached(turn, "served") < turn.until:
            if turn.asked.ids:
                self.scorer.answer(turn.asked.rows, turn.inputs, turn.asked.ids, turn.asked.at_us)
            self._reach(turn, "served")

    def settle(self, turn: Turn) -> None:
        """See `Lane`."""
        self._advance(turn.until)
        if self.shared is not None:
            _share_batches(self.shared, self.loop.ledger, turn.until)
        if turn.until < turn.from_us:
            return
        service = self.scorer.service
        if turn.serving and self._reached(turn, "monitored") < turn.until:
            stages.monitor(self.loop, service, turn.now, turn.until)
            self._reach(turn, "monitored")
        stages.reconcile(self.loop, service)
        self.scorer.refresh()

    def wait(self) -> None:
        """See `Lane`: nothing is under way."""

    def finish(self) -> None:
        """See `Lane`: nothing is under way."""

    def came_to(self, from_us: int, until_us: int) -> dict[str, Any]:
        """See `Lane`."""
        return {"name": self.name, **summary.policy(self.loop, self.scorer.service, from_us, until_us)}

    def _advance(self, at_us: int) -> None:
        if self.clock is not None:
            self.clock.advance_to(max(at_us, self.clock.now_us()))

    def _reached(self, turn: Turn, stage: str) -> int:
        """Up to where the lane is through with a stage."""
        return int(_load(self.loop.ledger, f"replay-{stage}:{turn.replay_id}").get("until_us", turn.first_us))

    def _reach(self, turn: Turn, stage: str) -> None:
        """Note it in the lane's own ledger, so that it is there whenever what the lane decided behind it is."""
        _save(self.loop.ledger, f"replay-{stage}:{turn.replay_id}", {"until_us": turn.until}, turn.until, durable=False)


@dataclass(slots=True)
class Replay:
    """A replay under way: `loop` does what all lanes share. `tick_us` is the length of one turn."""

    loop: Loop
    service: Service
    clock: ReplayClock
    world: World
    plan: Plan
    lanes: Sequence[Lane]
    primary: str
    from_us: int
    until_us: int
    first_us: int
    tick_us: int = DAY_US
    ingest: bool = True
    maintain_every: int = 30
    id: str = field(default="")
    served_us: int = 0
    """Up to when every lane has answered, as of the start."""

    def __post_init__(self) -> None:
        if self.until_us <= self.from_us:
            raise InvalidError(f"the replay would end {format_instant(self.until_us)} before it starts {format_instant(self.from_us)}")
        if not self.id:
            self.id = ids.derive("replay", self.service.name, self.from_us, self.until_us, [lane.name for lane in self.lanes])


def run(replay: Replay, progress: Progress = lambda _done, _of, _what: None) -> dict[str, Any]:
    """Go through history tick by tick and return the summary; a replay that was killed goes on behind its last whole tick."""
    ledger = replay.loop.ledger
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
    policies = [lane.came_to(replay.from_us, replay.until_us) for lane in replay.lanes]
    report = summary.summarise(replay.id, replay.service.name, policies, replay.from_us, replay.until_us, replay.primary)
    _save(ledger, f"replay:{replay.id}", report, replay.until_us)
    return report


def _tick(replay: Replay, now: int, until: int) -> None:
    loop, turn = replay.loop, Turn(replay.id, replay.first_us, replay.from_us, now, until)
    if turn.serving or until > replay.from_us - horizon_us(loop.definitions):
        _stream(replay, now, until)
    if turn.serving and until > replay.served_us:
        _in_all(replay.lanes, "serve", _asked(replay, turn))
        _wait(replay.lanes)  # once it is committed, online state may not answer for the turn again
    loop.processor.commit()
    replay.clock.advance_to(until)
    if replay.ingest:
        reports = stages.ingest(loop)
        stages.learn_labels(loop, reports)
        stages.maintain(loop, every=replay.maintain_every, before=lambda: _finish(replay.lanes))
    _in_all(replay.lanes, "settle", dataclasses.replace(turn, pins={s.table: s.id for s in loop.tables.snapshots()}))
    _wait(replay.lanes)


def _wait(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.wait()


def _finish(lanes: Sequence[Lane]) -> None:
    """Let all lanes come up to here: maintenance forgets snapshots that those behind have not read yet."""
    for lane in lanes:
        lane.finish()


def _in_all(lanes: Sequence[Lane], half: Literal["serve", "settle"], turn: Turn) -> None:
    """Half a turn in every lane; first in those of other processes, which are at it meanwhile."""
    for lane in sorted(lanes, key=lambda lane: isinstance(lane, LocalLane)):
        getattr(lane, half)(turn)


def _asked(replay: Replay, turn: Turn) -> Turn:
    asked = requests(replay.world, replay.service, turn.now, turn.until)
    return dataclasses.replace(turn, asked=asked, inputs=replay.plan.inputs(asked.rows, asked.at_us) if asked.ids else ())


def _share_batches(shared: Ledger, own: Ledger, until: int) -> None:
    """Let a policy's ledger know what was published by now; the data itself is shared."""
    batch = schema.batch
    with own.read() as db:
        known = set(db.execute(sa.select(batch.c.id)).scalars())
    with shared.read() as db:
        new = set(db.execute(sa.select(batch.c.id).where(batch.c.at_us <= until)).scalars()) - known
        rows = [dict(row) for row in db.execute(sa.select(batch).where(batch.c.id.in_(new))).mappings()] if new else []
    if rows:
        with own.write(durable=False) as db:
            for row in rows:
                insert_once(db, batch, row)


def _stream(replay: Replay, now: int, until: int) -> None:
    used = {view.table.name for view in replay.service.views}
    for name in sorted(used & set(replay.world)):
        rows = replay.world[name].known_between(now, until)
        if rows.num_rows:
            replay.loop.processor.push(name, rows)


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
    now = replay.clock.now_us()
    replay.served_us = min(lane.resume(Turn(replay.id, replay.first_us, replay.from_us, now, now)) for lane in replay.lanes)
    return int(done)


def _mark(ledger: Ledger, replay: Replay, until: int) -> None:
    _save(ledger, f"replay-tick:{replay.id}", {"until_us": until}, until)


def _load(ledger: Ledger, name: str) -> dict[str, Any]:
    with ledger.read() as db:
        found = fact(db, name)
    return dict(found) if found else {}


def _save(ledger: Ledger, name: str, value: Mapping[str, Any], at_us: int, *, durable: bool = True) -> None:
    with ledger.write(durable=durable) as db:
        upsert(db, schema.state, {"name": name, "value": to_json(value), "at_us": at_us})

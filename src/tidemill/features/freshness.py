"""How far the online state of views lags behind the present, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from tidemill.core.instants import format_duration
from tidemill.features.ports import ViewState
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, to_json, upsert

PREFIX = "freshness:"
ONLINE = "features:online"
"""Name of the fact that says what is online of each version."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """One view's lag: the present less the greatest known time of a row in its current state. `promised_us` None: nothing was promised."""

    view: str
    known_us: int | None
    lag_us: int | None
    promised_us: int | None

    @property
    def broken(self) -> bool:
        """Whether the state is older than promised; a state without any row is."""
        return self.promised_us is not None and (self.lag_us is None or self.lag_us > self.promised_us)


def freshness(states: Iterable[ViewState], promised: dict[str, int | None], now_us: int) -> list[Freshness]:
    """Of every view's current state, by view name; `promised` in microseconds by view name."""
    known = {s.view.name: s.known_us for s in states if s.current}
    return [
        Freshness(view, known.get(view), None if known.get(view) is None else max(0, now_us - int(known[view] or 0)), promise)
        for view, promise in promised.items()
    ]


def note_online(ledger: Ledger, states: Iterable[ViewState], *, now_us: int) -> None:
    """Keep in the ledger what is online of each version, for those who do not open the store."""
    body = {
        s.digest: {"state": "current" if s.current and s.status == "published" else s.status, "known_us": s.known_us, "view": s.view.name}
        for s in states
    }
    with ledger.write(durable=False) as db:
        upsert(db, schema.state, {"name": ONLINE, "value": to_json(body), "at_us": now_us})


def note(ledger: Ledger, found: Iterable[Freshness], *, now_us: int, actor: str = "tidemill") -> list[Freshness]:
    """Keep what was found in the ledger; return the views whose promise has just been broken. Each break and each recovery is one event."""
    found = list(found)
    with ledger.read() as db:
        query = sa.select(schema.state.c.name, schema.state.c.value).where(schema.state.c.name.like(f"{PREFIX}%"))
        before = {row.name: from_json(row.value) for row in db.execute(query)}
    broken: list[Freshness] = []
    with ledger.write(durable=False) as db:
        for one in found:
            was = bool(before.get(PREFIX + one.view, {}).get("broken"))
            value = {"known_us": one.known_us, "promised_us": one.promised_us, "broken": one.broken}
            upsert(db, schema.state, {"name": PREFIX + one.view, "value": to_json(value), "at_us": now_us})
            if one.broken != was:
                emit(db, "features.late" if one.broken else "features.fresh", one.view, value, at_us=now_us, actor=actor)
                if one.broken:
                    broken.append(one)
    return broken


def in_words(one: Freshness) -> str:
    """For an alert."""
    promise = format_duration(one.promised_us or 1)
    if one.lag_us is None:
        return f"feature view {one.view!r} promises to be at most {promise} old and has no rows online"
    return f"feature view {one.view!r} promises to be at most {promise} old; its newest known row is {format_duration(one.lag_us or 1)} old"

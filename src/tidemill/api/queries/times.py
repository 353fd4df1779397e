"""The instant that ages are counted from: the present, or, for a ledger that holds replayed history, the end of that history."""

import sqlalchemy as sa

from tidemill.core.clock import Clock
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema

HISTORY_AFTER_US = 30 * DAY_US


def as_of(db: sa.Connection, clock: Clock) -> int:
    """Now; or the time of the last event when that is more than thirty days ago, so that a replayed year reads as it did then."""
    now = clock.now_us()
    events = sa.select(schema.event.c.at_us).where(sa.not_(schema.event.c.kind.startswith("token.")))  # those are made in the present
    last = db.execute(events.order_by(schema.event.c.seq.desc()).limit(1)).scalar()
    return int(last) if last is not None and now - int(last) > HISTORY_AFTER_US else now

"""What servers have to do without, kept where the console and the doctor find it.

A process states its conditions under its own name, and again every `SAY_AGAIN_S` while there are any; what is older than `FRESH_US` was
said by a process that has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from tidemill.core.conditions import Condition, merged
from tidemill.core.instants import SECOND_US
from tidemill.ledger import schema
from tidemill.ledger.store import from_json, to_json, upsert

SAY_AGAIN_S = 10.0
FRESH_US = 60 * SECOND_US
_S = schema.state
_NAME = "conditions:"


def state(db: sa.Connection, process: str, conditions: Sequence[Condition], *, at_us: int) -> None:
    """State all conditions of a process; those of processes that have ended are dropped."""
    mine = f"{_NAME}{process}"
    db.execute(_S.delete().where(_ours(), (_S.c.name == mine) | (_S.c.at_us < at_us - FRESH_US)))
    if conditions:
        upsert(db, _S, {"name": mine, "value": to_json([asdict(c) for c in conditions]), "at_us": at_us})


def current(db: sa.Connection, now_us: int) -> list[Condition]:
    """What the servers that run now have to do without, by service and cause."""
    rows = db.execute(sa.select(_S.c.value).where(_ours(), _S.c.at_us >= now_us - FRESH_US)).scalars()
    return merged(Condition(**said) for text in rows for said in from_json(text))


def _ours() -> sa.ColumnElement[bool]:
    return _S.c.name.startswith(_NAME, autoescape=True)

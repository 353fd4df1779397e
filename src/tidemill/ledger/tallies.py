"""How often each deployment of a rollout answered, failed or was slow: counted by the processes that serve, added up by the loop that judges.

A process states the counts of its own life under its own name, so stating them twice changes nothing and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import from_json, to_json, upsert

_S = schema.state


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls of a model in one role: one request, or several that met. `slow` ones took longer than the rollout allows."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.calls + other.calls, self.failed + other.failed, self.slow + other.slow)


def state(db: sa.Connection, process: str, counted: Mapping[str, Mapping[str, Counts]], *, at_us: int) -> None:
    """State what a process has counted so far, by deployment and role."""
    for deployment, roles in counted.items():
        value = {role: [c.calls, c.failed, c.slow] for role, c in roles.items()}
        upsert(db, _S, {"name": f"tally:{deployment}:{process}", "value": to_json(value), "at_us": at_us})


def read(db: sa.Connection, deployment: str) -> dict[str, Counts]:
    """What all processes have counted of a deployment, by role."""
    found: dict[str, Counts] = {}
    query = sa.select(_S.c.value).where(_S.c.name.startswith(f"tally:{deployment}:", autoescape=True))
    for text in db.execute(query).scalars():
        said: dict[str, Any] = from_json(text)
        for role, values in said.items():
            found[role] = found.get(role, Counts()) + Counts(*values)
    return found


def forget(db: sa.Connection, deployment: str) -> None:
    """Drop the counts of a deployment that has ended."""
    db.execute(_S.delete().where(_S.c.name.startswith(f"tally:{deployment}:", autoescape=True)))

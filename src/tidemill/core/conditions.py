"""What a service has to do without at the moment: servers find it out, the ledger keeps it for the console, whoever looks reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Cause = Literal["ledger", "online_store", "prediction_log", "model", "certificate"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a service has to do without. `since_us`: when that was noticed; `means`: what becomes of answers; `reason`: the last error."""

    service: str
    cause: Cause
    since_us: int
    means: str
    reason: str


def merged(conditions: Iterable[Condition]) -> list[Condition]:
    """One a service and cause, the one that was noticed first: what several processes see is one condition."""
    found: dict[tuple[str, str], Condition] = {}
    for one in sorted(conditions, key=lambda c: (c.service, CAUSES.index(c.cause), c.since_us)):
        found.setdefault((one.service, one.cause), one)
    return list(found.values())

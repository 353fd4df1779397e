"""Where predictions are kept, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.core.instants import DAY_US


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long predictions stay where: whole in the fast log for `hot_us`, then in the table, altogether for `keep_us` (0: for ever)."""

    hot_us: int = DAY_US
    keep_us: int = 0


def table_of(service: str) -> str:
    """The table that a service's predictions are archived in."""
    return f"predictions_{service}"

"""Experiment tracking: parameters and metrics of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in a listing: what was asked for and nothing else (a ledger may hold thousands of metric names)."""

    id: str
    pipeline: str
    status: str
    cause: str
    started_us: int
    wall_s: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Parameters and metric values by run.

    Guarantees, each checked by `tidemill.testing.tracking.TrackerContract`:
        kept: a value whose `log` returned survives kill -9 of the process.
        history: each (name, step) keeps one value, the last written; NaN and infinities are kept.
        concurrent: dozens of processes log at once; nothing is lost, nobody sees a lock error.
        selective: `search` reads only the metrics and parameters that were named.
    """

    def log(self, run_id: str, values: Sequence[tuple[str, int, float]], *, at_us: int) -> None:
        """Write metric values (name, step, value)."""
        ...

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Write parameters; a second value for a name replaces the first."""
        ...

    def history(self, run_id: str, name: str) -> list[tuple[int, float, int]]:
        """All (step, value, at_us) of a metric, by step."""
        ...

    def search(
        self,
        *,
        order_by: str | None = None,
        descending: bool = False,
        metrics: Sequence[str] = (),
        params: Sequence[str] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> list[RunRow]:
        """Runs, newest first, or ordered by a metric's last value (runs without it last)."""
        ...

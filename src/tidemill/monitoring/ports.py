"""Labels as a primitive, and where metrics and alerts go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from tidemill.core.definitions import Label


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One statement of a label: who said what of which key, when it happened and when it was known. Revisions are further rows."""

    label: str
    key: str
    value: float | None
    event_us: int
    known_us: int
    writer: str = "table"


class LabelStore(Protocol):
    """Labels, delayed and revised.

    Guarantees, each checked by `tidemill.testing.monitoring.LabelStoreContract`:
        resolved: as of t, a key's label is its row with the greatest known time <= t; ties go to the writer that stands first in `writers` (those that are not named come last), then to the later write. The same rule everywhere.
        history: every revision stays readable.
        once: the same statement written twice is one row.
        derived: `derive` gives one statement a row that has a key; a null expression is a null value, and a null value is no label.
        lasting: what `write` returned for survives a power cut.
    """

    def derive(self, label: Label, rows: pa.Table) -> pa.Table:
        """What `rows` of the label's table state, by its expression: columns as `write` takes them. Raises `InvalidError`."""
        ...

    def write(self, rows: Sequence[LabelRow] | pa.Table) -> int:
        """Add statements (a table has columns label, key, value, event_us, known_us, writer); return how many were new."""
        ...

    def as_of(self, label: str, at_us: int, *, from_event_us: int = 0, writers: Sequence[str] = ()) -> pa.Table:
        """Resolved labels: columns key (string), value (float64), event_us, known_us (int64). `writers` is the label's declared order."""
        ...

    def statements(self, label: str, at_us: int) -> pa.Table:
        """Every statement known at `at_us`, in the order of writing: columns as `write` takes them, null values too."""
        ...

    def history(self, label: str, key: str) -> list[LabelRow]:
        """Every statement about a key, oldest known first."""
        ...


@dataclass(frozen=True, slots=True)
class Observation:
    """One objective of a deployed version over one window. [low, high] is the interval; `covered` of `n` rows had what it needs."""

    service: str
    version: int
    objective: str
    from_us: int
    until_us: int
    value: float | None
    low: float | None
    high: float | None
    n: int
    covered: int
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """Share of the rows that the value speaks of, 0 to 1."""
        return self.covered / self.n if self.n else 0.0


class MetricSink(Protocol):
    """Takes observations.

    Guarantees, each checked by `tidemill.testing.monitoring.MetricSinkContract`:
        restated: the same window written again replaces the older value.
    """

    def write(self, observations: Sequence[Observation], *, at_us: int) -> None:
        """Store or restate observations."""
        ...


class MetricSource(Protocol):
    """Gives observations back.

    Guarantees, each checked by `tidemill.testing.monitoring.MetricSinkContract`:
        found: what a sink wrote is read, in order of time, and nothing that was not asked for.
    """

    def read(self, service: str, *, objective: str | None = None, version: int | None = None, from_us: int = 0) -> list[Observation]:
        """Observations whose window ends after `from_us`."""
        ...


class AlertSink(Protocol):
    """Tells people.

    Guarantees, each checked by `tidemill.testing.monitoring.AlertSinkContract`:
        at least once: an alert has arrived when `send` returns; otherwise it raises and may be sent again.
        bounded: `send` never blocks the loop for more than its timeout.
    """

    def send(self, subject: str, body: Mapping[str, Any]) -> None:
        """Deliver an alert. Raises `UnavailableError` when nobody took it."""
        ...

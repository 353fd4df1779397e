"""From published rows and from named writers to labels; and what has become of the label of each prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from tidemill.core.definitions import Label, Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import format_instant
from tidemill.monitoring.ports import LabelRow, LabelStore
from tidemill.serving.ports import PredictionLog

MAX_ROWS = 10_000
"""Statements in one push."""
State = Literal["pending", "early", "mature", "censored"]
"""Of a prediction's label: still expected; there, and may still change; there, and its time is over; not there, and its time is over."""


def sync_labels(label: Label, rows: pa.Table, labels: LabelStore) -> int:
    """Write what `rows`, published rows of the label's table, say about `label`; return how many statements were new.

    Doing it again with the same rows adds nothing, so a killed loop may simply repeat it.

    Raises:
        InvalidError: the expression or a column it needs is wrong.
    """
    return labels.write(labels.derive(label, rows)) if rows.num_rows else 0


@dataclass(frozen=True, slots=True)
class Stated:
    """What a writer says of a key. Times in microseconds; `known_us` None: now, `event_us` None: when it became known."""

    key: str
    value: float | None
    event_us: int | None = None
    known_us: int | None = None


def push_labels(label: Label, writer: str, stated: Sequence[Stated], labels: LabelStore, *, now_us: int) -> int:
    """State labels under a writer's name, all or none; return how many statements were new. Raises `InvalidError`, see `label_statements`."""
    return labels.write(label_statements(label, writer, stated, now_us=now_us))


def label_statements(label: Label, writer: str, stated: Sequence[Stated], *, now_us: int) -> list[LabelRow]:
    """What a writer says, as `LabelStore.write` takes it. A null value takes a label back.

    Raises:
        InvalidError: the writer is not one of the label's, a time lies ahead or before the event, a value is not between 0 and 1, or there are too many.
    """
    if not writer or writer.startswith("table:"):
        raise InvalidError(f"{writer!r} cannot be the name of a writer; 'table:…' is how the label's own table is called")
    if label.writers and writer not in label.writers:
        raise InvalidError(f"{writer!r} is no writer of label {label.name!r}; its definition names {', '.join(label.writers)}")
    if not 1 <= len(stated) <= MAX_ROWS:
        raise InvalidError(f"send 1 to {MAX_ROWS:,} labels at a time, not {len(stated):,}")
    return [_row(label, writer, item, now_us) for item in stated]


def _row(label: Label, writer: str, item: Stated, now_us: int) -> LabelRow:
    known = now_us if item.known_us is None else item.known_us
    event = known if item.event_us is None else item.event_us
    if not item.key:
        raise InvalidError(f"a label {label.name!r} without a key; the key is the id of the prediction, column {label.key!r} of its table")
    if known > now_us:
        raise InvalidError(
            f"the label of {item.key!r} would be known at {format_instant(known)}, which is still to come; leave its known time out"
        )
    if event > known:
        raise InvalidError(f"the label of {item.key!r} happened at {format_instant(event)}, after it was known; swap event and known")
    if item.value is not None and not 0 <= item.value <= 1:  # nor is NaN
        raise InvalidError(f"the label of {item.key!r} is {item.value}; send 0, 1 or a number between, or null to take it back")
    return LabelRow(label.name, item.key, item.value, event, known, writer)


@dataclass(frozen=True, slots=True)
class LabelState:
    """The label of one prediction. `revised`: another value was stated before."""

    key: str
    at_us: int
    state: State
    value: float | None
    known_us: int | None
    revised: bool


@dataclass(frozen=True, slots=True)
class LabelStates:
    """The labels of a service's answers in [from_us, until_us), as known at `as_of_us`."""

    service: str
    label: str
    as_of_us: int
    rows: tuple[LabelState, ...]
    counts: Mapping[str, int] = field(default_factory=dict)


def label_states(
    service: Service, *, log: PredictionLog, labels: LabelStore, from_us: int, until_us: int | None, at_us: int
) -> LabelStates:
    """What has become of the label of each answer. A label that came after its maturity counts from then on, offline and online alike."""
    scores = log.scores(service.name, from_us=from_us, until_us=until_us)
    answered = scores["role"] != "shadow"
    served = dict(zip(scores["id"][answered].tolist(), scores["at_us"][answered].tolist(), strict=True))
    found = labels.as_of(service.label.name, at_us, writers=service.label.writers).to_pylist()
    resolved = {row["key"]: row for row in found}
    values: dict[str, set[Any]] = {}
    for row in labels.statements(service.label.name, at_us).select(["key", "value"]).to_pylist():
        values.setdefault(row["key"], set()).add(row["value"])
    ripe = service.lead_us + service.label.matures_us
    rows = tuple(
        LabelState(key, at, state_of(key in resolved, at + ripe <= at_us), *_value(resolved.get(key)), len(values.get(key, ())) > 1)
        for key, at in sorted(served.items(), key=lambda item: (item[1], item[0]))
    )
    counts = Counter[str](row.state for row in rows) + Counter(revised=sum(row.revised for row in rows))
    every = ("pending", "early", "mature", "censored", "revised")
    return LabelStates(service.name, service.label.name, at_us, rows, {name: counts[name] for name in every})


def _value(row: Mapping[str, Any] | None) -> tuple[float | None, int | None]:
    return (None, None) if row is None else (row["value"], row["known_us"])


def state_of(labelled: bool, ripe: bool) -> State:
    """The state of a label by whether there is one and whether its time is over."""
    if labelled:
        return "mature" if ripe else "early"
    return "censored" if ripe else "pending"

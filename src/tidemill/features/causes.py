"""A guess at why a served value is not the offline one, from the ways in which it usually goes wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import Service
from tidemill.core.instants import HOUR_US, format_duration
from tidemill.features.ports import AT, OfflineStore, Served, SourceRow
from tidemill.versioning.ports import Scan

Case = tuple[Served, str, Any, Any]
"""A prediction, the column that differs, the served value, the expected one."""
_LOOKED_INTO = 3
_LATE = 10
_DEEP = ("late row", "order: the row")
_COMPUTED = frozenset({"count", "latest", "sum", "mean", "min", "max"})
"""Kinds whose value can be computed from a handful of rows here."""


def guess(
    service: Service,
    cases: Sequence[Case],
    at: Callable[[int], list[Any]],
    offline: OfflineStore,
    scans: Mapping[str, Scan],
    others: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """The likely cause of each case; all are of one column, so the cause that explains most of them is preferred.

    `at` answers the offline values of the cases with all their times shifted by some microseconds; `others` has the offline values of
    all columns, case by case.
    """
    explained: list[list[str]] = [_from_values(served, expected) for _, _, served, expected in cases]
    for causes, found in zip(explained, _swapped(cases, others), strict=True):
        causes += found
    if not all(explained):
        for hours in (1, -1, 4, -4, 5, -5):
            when = f"timezone: the value {abs(hours)} h {'later' if hours > 0 else 'earlier'}"
            for causes, (_, _, served, _), moved in zip(explained, cases, at(hours * HOUR_US), strict=True):
                if close(served, moved):
                    causes.append(when)
            if all(explained):
                break
    common = Counter(c for causes in explained for c in causes)
    if max(common.values(), default=0) < len(cases):
        deep = _looked_into(service, cases, explained, offline, scans)
        if deep is not None:
            return deep
        common = Counter(c for causes in explained for c in causes)
    best = [cause for cause, _ in common.most_common()]
    late = next((c for c in best if c.startswith(_DEEP)), None)
    return [next((c for c in best if c in causes), late or "other") for causes in explained]


def _looked_into(
    service: Service, cases: Sequence[Case], explained: list[list[str]], offline: OfflineStore, scans: Mapping[str, Scan]
) -> list[str] | None:
    """Ask the source rows of a few cases, those that nothing explains first. If rows explain all of these, they explain all cases; else what was found is added."""
    chosen = sorted(range(len(cases)), key=lambda i: (bool(explained[i]), i))[:_LOOKED_INTO]
    found = {i: _late(service, cases[i], offline, scans) for i in chosen}
    for i, causes in found.items():
        explained[i] += causes
    kinds = [{c.partition(":")[0] for c in causes} for causes in found.values()]
    if not kinds or not set.intersection(*kinds):
        return None
    usual = Counter(c for causes in found.values() for c in causes).most_common(1)[0][0]
    return [found[i][0] if found.get(i) else usual for i in range(len(cases))]


def _swapped(cases: Sequence[Case], others: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Whether the served values are those of another column: of at least two rows and most of them, or of the only one."""
    found: list[list[str]] = [[] for _ in cases]
    if not others:
        return found
    for name in others[0]:
        same = [
            i for i, ((_, column, served, _), row) in enumerate(zip(cases, others, strict=True))
            if name != column and served is not None and type(row[name]) is type(served) and close(served, row[name])
        ]  # fmt: skip
        if len(same) * 2 > len(cases) and (len(same) > 1 or len(cases) == 1):
            for i in same:
                found[i].append(f"order: the value of {name}")
    return found


def close(served: Any, expected: Any) -> bool:
    """Whether two values count as equal."""
    if isinstance(served, int | float) and isinstance(expected, int | float):
        return math.isclose(served, expected, rel_tol=1e-9) or (served != served and expected != expected)
    return bool(served == expected)


def _from_values(served: Any, expected: Any) -> list[str]:
    if expected is None and served == 0:
        return ["null read as 0"]
    if expected is not None and (served is None or served != served):
        return ["value missing (null served)"]
    if isinstance(served, int | float) and isinstance(expected, int | float):
        if float(np.float32(expected)) == served:
            return ["float32"]
    elif served is not None and expected is not None and type(served) is not type(expected):
        return [f"type: {type(served).__name__} for {type(expected).__name__}"]
    return []


def _late(service: Service, case: Case, offline: OfflineStore, scans: Mapping[str, Scan]) -> list[str]:
    prediction, column, served, _ = case
    for view in service.views:
        for aggregate in view.aggregates:
            if view.full_name(aggregate) == column:
                key = {name: prediction.request[name] for name in view.keys}
                rows = offline.explain({**key, AT: prediction.at_us}, view, scans[view.table.name], limit=10_000)
                return _without_late(aggregate, rows, prediction.at_us, served)
    return []


def _without_late(aggregate: Aggregate, rows: Iterable[SourceRow], at: int, served: Any) -> list[str]:
    """Whether leaving out the rows that were latest to become known, one after the other, gives the served value."""
    low = (at - aggregate.over_us) // aggregate.hop_us * aggregate.hop_us if aggregate.hop_us else at - aggregate.ttl_us - 1
    inside = [r for r in rows if r.use in ("used", "not_latest") and r.event_us > low]
    if aggregate.kind not in _COMPUTED:
        return []
    if aggregate.kind == "latest":
        last = max(inside, key=lambda r: (r.known_us, r.event_us), default=None)
        newest = max(inside, key=lambda r: (r.event_us, r.known_us), default=None)
        if last is not None and last is not newest and close(served, last.values.get(str(aggregate.column))):
            return ["order: the row that became known last, not the one that happened last"]
    inside.sort(key=lambda r: r.event_us - r.known_us)
    for left_out in range(1, min(len(inside), _LATE) + 1):
        if close(served, _value(aggregate, inside[left_out:])):
            lag = format_duration(inside[left_out - 1].known_us - inside[left_out - 1].event_us or 1)
            return [
                f"late row dropped: {left_out} known {lag} or more after the event"
                if left_out > 1
                else f"late row dropped: known {lag} after its event"
            ]
    if aggregate.kind == "latest":
        by_event = sorted(inside, key=lambda r: (r.event_us, r.known_us))
        if any(close(served, r.values.get(str(aggregate.column))) for r in by_event[:-1]):
            return ["late row dropped: an older row was served"]
    return []


def _value(aggregate: Aggregate, rows: Sequence[SourceRow]) -> Any:
    column = str(aggregate.column)
    if aggregate.kind == "count":
        return len(rows) if aggregate.column is None else sum(r.values[column] is not None for r in rows)
    if aggregate.kind == "latest":
        newest = max(rows, key=lambda r: (r.event_us, r.known_us), default=None)
        return newest.values[column] if newest else None
    values = [float(r.values[column]) for r in rows if r.values[column] is not None]
    if not values:
        return None
    whole = math.fsum(values)
    return {"mean": whole / len(values), "sum": whole, "min": min(values), "max": max(values)}[aggregate.kind]

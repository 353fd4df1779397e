"""Every windowed and latest feature of one view, for many queries: which kernel answers which kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.embedded import holistic
from tidemill.features.embedded.kernels import Keyed, Queries, Summed, Sums, ends, extremes, newest
from tidemill.features.embedded.source import Int64, Rows
from tidemill.features.fields import Field, field_of

ZERO = frozenset({"count", "distinct"})
"""Kinds that answer 0, not null, where there is nothing."""
_SUMMED = frozenset({"mean", "sum", "count", "std"})
_HOLISTIC = frozenset({"quantile", "distinct", "top"})


def answers(view: FeatureView, keyed: Keyed, rows: Rows, used: Int64, queries: Queries) -> dict[str, pa.Array]:
    """The view's features by name, expressions left out. `keyed` are the rows at `used` of `rows`, with the codes of their entities."""
    made = _sums(view, keyed, rows, used, queries)
    for a in view.aggregates:
        if a.kind in ("min", "max"):
            values = extremes(keyed, rows.numbers(_field(a))[used], queries, a.over_us, a.hop_us, least=a.kind == "min")
            made[a.name] = pa.array(values, mask=np.isnan(values))
    made |= _ends(view, keyed, rows, used, queries)
    made |= _whole_windows(view, keyed, rows, used, queries)
    made |= _latest(view, keyed, rows, used, queries)
    return made


def _field(a: Aggregate) -> Field:
    field = field_of(a)
    assert field is not None
    return field


def _sums(view: FeatureView, keyed: Keyed, rows: Rows, used: Int64, queries: Queries) -> dict[str, pa.Array]:
    summed = [a for a in view.aggregates if a.kind in _SUMMED]
    fields = sorted({f for a in summed if (f := field_of(a)) is not None})
    made: dict[str, pa.Array] = {}
    if summed:
        squared = {fields.index(_field(a)) for a in summed if a.kind == "std"}
        sums = Sums(keyed, [rows.numbers(f)[used] for f in fields], squared)
        for over, hop in sorted({(a.over_us, a.hop_us) for a in summed}):
            found = sums.window(queries, over, hop)
            for a in summed:
                if (a.over_us, a.hop_us) == (over, hop):
                    field = field_of(a)
                    made[a.name] = _finish(a, found[0] if field is None else found[1 + fields.index(field)])
    return made


def _finish(a: Aggregate, found: Summed) -> pa.Array:
    if a.kind == "count":
        return pa.array(found.count)
    if a.kind == "std":
        values = found.deviation()
        return pa.array(values, mask=np.isnan(values))
    none = found.count == 0
    total = found.total()
    return pa.array(total / np.where(none, 1, found.count) if a.kind == "mean" else total, mask=none)


def _with_values(keyed: Keyed, there: np.ndarray[Any, Any]) -> Keyed:
    """Only the rows that are there."""
    names = ("code", "event", "known", "visible", "end", "order")
    return replace(keyed, **{name: getattr(keyed, name)[there] for name in names})


def _ends(view: FeatureView, keyed: Keyed, rows: Rows, used: Int64, queries: Queries) -> dict[str, pa.Array]:
    made: dict[str, pa.Array] = {}
    for a in view.aggregates:
        if a.kind in ("first", "last"):
            values = rows.values(_field(a))
            there = np.flatnonzero(~np.asarray(values.is_null())[used])
            found = ends(_with_values(keyed, there), queries, a.over_us, a.hop_us, oldest=a.kind == "first")
            made[a.name] = _taken(values, used[there], found)
    return made


def _taken(values: pa.Array, places: Int64, found: Int64) -> pa.Array:
    row = np.where(found >= 0, places[found] if len(places) else -1, -1)
    return values.take(pa.array(row, mask=row < 0))


def _whole_windows(view: FeatureView, keyed: Keyed, rows: Rows, used: Int64, queries: Queries) -> dict[str, pa.Array]:
    wanted = sorted((a for a in view.aggregates if a.kind in _HOLISTIC), key=_window)
    made: dict[str, pa.Array] = {}
    for (field, over, hop), group in groupby(wanted, key=_window):
        values = rows.values(field)
        there = np.flatnonzero(~np.asarray(values.is_null())[used])
        windows = holistic.Windows(_with_values(keyed, there), queries, over, hop)
        made |= _of_values(list(group), windows, values.take(pa.array(used[there])), len(queries.at))
    return made


def _window(a: Aggregate) -> tuple[Field, int, int]:
    return _field(a), a.over_us, a.hop_us


def _of_values(group: Iterable[Aggregate], windows: holistic.Windows, values: pa.Array, queries: int) -> dict[str, pa.Array]:
    made: dict[str, pa.Array] = {}
    group = list(group)
    for a in group:
        if a.kind == "quantile":
            found = holistic.quantiles(windows, np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64), a.q, queries)
            made[a.name] = pa.array(found, mask=np.isnan(found))
        elif a.kind == "distinct":
            made[a.name] = pa.array(holistic.distincts(windows, values, queries))
    if tops := [a for a in group if a.kind == "top"]:
        codes, named = holistic.tops(windows, values, max(a.rank for a in tops), queries)
        for a in tops:
            code = codes[:, a.rank - 1]
            made[a.name] = named.take(pa.array(code, mask=code < 0))
    return made


def _latest(view: FeatureView, keyed: Keyed, rows: Rows, used: Int64, queries: Queries) -> dict[str, pa.Array]:
    made: dict[str, pa.Array] = {}
    latest = [a for a in view.aggregates if a.kind == "latest"]
    for where, ttl in sorted({(a.where, a.ttl_us) for a in latest}):
        there = np.flatnonzero(rows.holds(where)[used]) if where else np.arange(len(used))
        found = newest(_with_values(keyed, there) if where else keyed, queries, ttl)
        for a in latest:
            if (a.where, a.ttl_us) == (where, ttl):
                made[a.name] = _taken(rows.values(_field(a)), used[there], found)
    return made

"""Features by their definitions and nothing else: slow and obviously right, on tables that hold every difficulty."""

from __future__ import annotations

import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.aggregates import (
    Aggregate,
    count,
    distinct,
    expression,
    first,
    last,
    latest,
    max_,
    mean,
    min_,
    names_in,
    quantile,
    std,
    sum_,
    top_k,
)  # fmt: skip
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.instants import parse_duration
from tidemill.versioning.ports import Scan

MINUTE = parse_duration("1m")
UTC_US = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("place", pa.string()),
        ("lane", pa.int64()),
        ("happened", UTC_US),
        ("learned", UTC_US),
        ("delay", pa.float64()),
        ("word", pa.string()),
    ]
)
KEYED = Table("keyed", "files:keyed", "happened", "learned", key="id")
PLAIN = Table("plain", "files:plain", "happened", "learned")
PLACE, _LANE = Entity("place"), Entity("lane")
_WINDOWS = [
    mean("delay", over="6m", hop="2m"), sum_("delay", over="6m", hop="2m"), count(over="6m", hop="2m"), count(over="9m", hop="3m"),
    min_("delay", over="6m", hop="2m"), max_("delay", over="9m", hop="3m"),
]  # fmt: skip
_MORE = [
    std("delay", over=("4m", "9m"), hop="1m"), first("word", over="6m", hop="2m"), last("delay", over="6m", hop="2m"),
    first("delay", over="9m", hop="3m", where="word = 'u'"), distinct("word", over="6m", hop="2m"), distinct("lane", over="9m", hop="3m"),
    quantile("delay", 0.5, over="6m", hop="2m"), quantile("delay", 0.9, over="9m", hop="3m", where="lane = 1"),
    top_k("word", 2, over="9m", hop="3m"), top_k("lane", 1, over="6m", hop="2m"), count("delay", over="6m", hop="2m"),
    count(over="6m", hop="2m", where="delay > 0 AND happened >= learned", name="quick"), count("word", over="9m", hop="3m", where="lane = 2"),
    sum_("delay", over="9m", hop="3m", where="word IS NULL"), max_("delay", over="6m", hop="2m", where="lane <> 2 OR word = 'v'"),
    latest("lane", ttl="5m", where="word = 'v' OR delay < 0"), expression("share", "quick / delay_count_6m"), expression("far", "(delay_last_6m - 0.5) * delay_std_9m - share"),
]  # fmt: skip
_LATEST = latest("delay", "word", ttl="5m")
VIEWS = tuple(
    view
    for table in (KEYED, PLAIN)
    for view in (
        FeatureView(f"{table.name}_windows", PLACE, table, _WINDOWS),
        FeatureView(f"{table.name}_more", PLACE, table, _MORE),
        FeatureView(f"{table.name}_newest", PLACE, table, [_LATEST, mean("delay", over="4m", hop="4m")]),
        FeatureView(f"{table.name}_lanes", (PLACE, _LANE), table, [count(over="12m", hop="1m"), latest("word", ttl="30m")]),
    )
)
DEFINITIONS = Definitions(tables={t.name: t for t in (KEYED, PLAIN)}, views={v.name: v for v in VIEWS})

Rows = Sequence[Mapping[str, Any]]


def reference(view: FeatureView, rows: Rows, key: Mapping[str, Any], at: int) -> dict[str, Any]:
    """A view's values at `at` from rows in the order of ingestion, by the definitions and nothing else."""
    table, once = view.table, [r for i, r in enumerate(rows) if r not in rows[:i]]
    known = [(r[table.known_time], i, r) for i, r in enumerate(once) if r[table.known_time] is not None and r[table.known_time] <= at]

    def current(learned: int, number: int, row: Mapping[str, Any]) -> bool:
        identity = [row[k] for k in table.keys]
        if not identity or None in identity:
            return True
        return not any((k, i) > (learned, number) and [r[c] for c in table.keys] == identity for k, i, r in known)

    mine = [
        (r[table.event_time], k, i, r)
        for k, i, r in known
        if all(r[c] == key[c] and key[c] is not None for c in view.keys)
        if r[table.event_time] is not None and r[table.event_time] <= at and current(k, i, r)
    ]
    answer: dict[str, Any] = {}
    for a in view.aggregates:
        chosen = [m for m in mine if not a.where or _CONDITIONS[a.where](m[3])]
        if a.kind == "expression":
            answer[view.full_name(a)] = _formula(a.expression, {n: answer[f"{view.name}__{n}"] for n in names_in(a.expression)})
        elif a.kind == "latest":
            event, _, _, row = max(chosen, default=(-(2**62), 0, 0, {}), key=lambda m: m[:3])
            answer[view.full_name(a)] = row[str(a.column)] if at - event <= a.ttl_us else None
        else:
            inside = sorted((m for m in chosen if m[0] > (at - a.over_us) // a.hop_us * a.hop_us), key=lambda m: m[:3])
            values = [1 if a.column is None else r[a.column] for _, _, _, r in inside if a.column is None or r[a.column] is not None]
            answer[view.full_name(a)] = _aggregate(a, values)
    return answer


def _aggregate(a: Aggregate, values: list[Any]) -> Any:
    """One feature from its values, oldest first."""
    if a.kind in ("count", "distinct"):
        return len(values) if a.kind == "count" else len(set(values))
    if a.kind == "top":
        ranked = sorted(set(values), key=lambda v: (-values.count(v), v))
        return ranked[a.rank - 1] if a.rank <= len(ranked) else None
    if not values or (a.kind == "std" and len(values) < 2):
        return None
    if a.kind in ("first", "last"):
        return values[0 if a.kind == "first" else -1]
    if a.kind == "std":
        return statistics.stdev(map(Fraction, values))
    if a.kind == "quantile":
        return sorted(values)[max(0, math.ceil(a.q * len(values)) - 1)]
    whole = math.fsum(values)
    return {"mean": whole / len(values), "sum": whole, "min": min(values), "max": max(values)}[a.kind]


def _formula(text: str, values: Mapping[str, Any]) -> float | None:
    if None in values.values():
        return None
    try:
        found = float(eval(_compiled(text), {}, dict(values)))
    except ZeroDivisionError:
        return None
    return found if math.isfinite(found) else None


@lru_cache
def _compiled(text: str) -> CodeType:
    return compile(text, text, "eval")


def _when(row: Mapping[str, Any], name: str, holds: Callable[[Any], bool]) -> bool:
    return row[name] is not None and holds(row[name])


_CONDITIONS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "word = 'u'": lambda r: r["word"] == "u",
    "lane = 1": lambda r: r["lane"] == 1,
    "lane = 2": lambda r: r["lane"] == 2,
    "word IS NULL": lambda r: r["word"] is None,
    "delay > 0 AND happened >= learned": lambda r: _when(r, "delay", lambda d: d > 0) and r["happened"] >= r["learned"],
    "lane <> 2 OR word = 'v'": lambda r: _when(r, "lane", lambda n: n != 2) or r["word"] == "v",
    "word = 'v' OR delay < 0": lambda r: r["word"] == "v" or _when(r, "delay", lambda d: d < 0),
}
"""The conditions of the test views, told again in Python."""


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal names and values, floats to 1e-9 relative, quantiles as near as they promise to be."""
    return one.keys() == other.keys() and all(_same(v, other[k], rough=bool(_QUANTILE.search(k))) for k, v in one.items())


_QUANTILE = re.compile(r"_p[0-9_]+_\d+[a-z]+$")


def _same(a: Any, b: Any, *, rough: bool) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=0.004, abs_tol=sys.float_info.min) if rough else math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def arrow(rows: Rows) -> pa.Table:
    """Rows of the test tables as Arrow."""
    return pa.table(
        {
            n: pa.array([r[n] for r in rows], pa.int64() if t == UTC_US else t).cast(t)
            for n, t in zip(SCHEMA.names, SCHEMA.types, strict=True)
        }
    )


def scans(folder: Path, rows: Mapping[str, Rows], cuts: Sequence[int] = ()) -> dict[str, Scan]:
    """Write rows to Parquet files, cut after the given numbers of rows, and say where they are."""
    made = {}
    for name, all_ in rows.items():
        edges = [0, *sorted(min(c, len(all_)) for c in cuts), len(all_)]
        paths = []
        for a, b in pairwise(edges):
            if a < b:
                paths.append(str(folder / f"{uuid4().hex}.parquet"))
                pq.write_table(arrow(all_[a:b]), paths[-1])
        made[name] = Scan(name, 1, SCHEMA, tuple(paths))
    return made

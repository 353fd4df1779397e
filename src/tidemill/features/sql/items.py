"""Quantiles, numbers of different values and most frequent values: how often each item occurs among the rows of a window.

An item is the edge of a number's bucket, the hash of a value, or the value itself, exactly as `features.sketches` has them. A question meets
the tiles of its window, item by item, and the rows around its own hop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.sketches import HASH_BITS, KEPT
from tidemill.features.sql.arithmetic import float_, leaves
from tidemill.features.sql.engines import quote
from tidemill.features.sql.fields import Shape
from tidemill.features.sql.pieces import Pieces, Windows, piece_steps
from tidemill.features.sql.tables import Step, key

KINDS = ("quantile", "distinct", "top")
Group = tuple[str, str]
"""A kind and the column of its field: features that count the same items."""


def groups(view: FeatureView, shape: Shape) -> list[tuple[Group, list[Aggregate]]]:
    """The features of a view by the items that they count; a group's place is its number in the query."""

    def group(a: Aggregate) -> Group:
        return a.kind, shape.of(a)

    return [(g, list(mine)) for g, mine in groupby(sorted((a for a in view.aggregates if a.kind in KINDS), key=group), key=group)]


def item_steps(view: FeatureView, number: int, group: Group, mine: Sequence[Aggregate]) -> Iterator[Step]:
    """Steps that end in `VIEW_itemsN`, one row per question with a column per feature."""
    kind, source = group
    wide = sorted({(a.over_us, a.hop_us) for a in mine})
    item = {"quantile": _edge(source), "distinct": f"TM_HASH({source})", "top": source}[kind]
    name = f"items{number}"
    yield from piece_steps(
        view,
        Pieces(
            name,
            wide,
            leaves("_over", "_hop"),
            {"_item": item},
            f"{source} IS NOT NULL",
            {"_times": "COUNT(*)"},
            {"_times": "CAST(SUM(_times) AS BIGINT)"},
            ("_item",),
        ),
    )
    yield Step(f"{view.name}_{name}", "one row per question", _answers(view, kind, f"{view.name}_{name}_found", wide, mine))


def _answers(view: FeatureView, kind: str, found: str, wide: Windows, mine: Sequence[Aggregate]) -> str:
    keys = ", ".join(key(k) for k in view.keys)
    window = f"PARTITION BY {keys}, _at, _window"
    ranked: Mapping[str, str] = {
        "quantile": f"SUM(_times) OVER ({window} ORDER BY _item ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS _upto, SUM(_times) OVER ({window}) AS _n",
        "distinct": f"ROW_NUMBER() OVER ({window} ORDER BY _item) AS _rank",
        "top": f"ROW_NUMBER() OVER ({window} ORDER BY _times DESC, _item) AS _rank",
    }
    columns = ", ".join(f"{_answer(a, wide.index((a.over_us, a.hop_us)))} AS {quote(a.name)}" for a in mine)
    return f"SELECT {keys}, _at, {columns} FROM (SELECT *, {ranked[kind]} FROM {quote(found)}) AS r GROUP BY {keys}, _at"


def _answer(a: Aggregate, window: int) -> str:
    here = f"_window = {window}"
    if a.kind == "quantile":
        return f"MIN(CASE WHEN {here} AND _upto >= GREATEST(CEIL({float_(a.q)} * CAST(_n AS DOUBLE)), 1) THEN _item END)"
    if a.kind == "top":
        return f"MAX(CASE WHEN {here} AND _rank = {a.rank} THEN _item END)"
    kept = f"MAX(CASE WHEN {here} AND _rank = {KEPT} THEN _item END)"
    estimate = f"CAST(ROUND({float_((KEPT - 1) * 2.0**HASH_BITS)} / CAST({kept} AS DOUBLE)) AS BIGINT)"
    return f"COALESCE({estimate}, COUNT(CASE WHEN {here} THEN 1 END))"


def _edge(x: str) -> str:
    """The edge of a number's bucket: its sign, exponent and 8 bits of mantissa. The logarithm may miss the exponent by one."""
    near = f"GREATEST(LEAST(FLOOR(LN(ABS({x})) / LN(2)), 1023), -1022)"
    exponent = f"({near} - CASE WHEN POWER(2, {near}) > ABS({x}) AND {near} > -1022 THEN 1 WHEN POWER(2, {near} + 1) <= ABS({x}) THEN -1 ELSE 0 END)"
    step = f"POWER(2, {exponent} - 8)"
    return f"CASE WHEN {x} = 0 THEN CAST(0 AS DOUBLE) ELSE SIGN({x}) * FLOOR(ABS({x}) / {step}) * {step} END"

"""Features of how often values occur in a window: quantiles, distinct counts, the most frequent values.

They depend on the multiset of values alone, and are those of `features.sketches` to the last bit: a quantile counts the edges of buckets, a
distinct count the first 15 hex digits of the MD5 of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.fields import Field, field_of
from tidemill.features.sketches import HASH_BITS, KEPT
from tidemill.features.sql.sources import sql_type
from tidemill.features.sql.stabs import Stab, Window, stab_steps
from tidemill.features.sql.sums import shifted
from tidemill.features.sql.tables import Named, Step, keys_of

KINDS = ("quantile", "distinct", "top")
_VALUE = ("_edge", "_whole", "_text")
"""Where a value is counted: a number's bucket, a hash or an integer, a text."""


@dataclass(frozen=True, slots=True, order=True)
class Counted:
    """Values that are counted: of a field, for a kind of feature, in a window. Its place among all is `_window` in the query."""

    window: Window
    kind: str
    field: Field


def counted(view: FeatureView) -> list[Counted]:
    """What is counted for a view's features, each once."""
    return sorted({_counted(a) for a in view.aggregates if a.kind in KINDS})


def _counted(a: Aggregate) -> Counted:
    field = field_of(a)
    assert field is not None
    return Counted(Window(a.over_us, a.hop_us), a.kind, field)


def feature(a: Aggregate, among: Sequence[Counted], schema: pa.Schema, table: str) -> str:
    """The value of a feature, from columns of the last step."""
    column = _column(a, among)
    if a.kind == "distinct":
        estimate = f"CAST(TM_EVEN({(KEPT - 1) * 2**HASH_BITS}e0 / CAST({column}_last AS DOUBLE)) AS BIGINT)"
        return f"CASE WHEN {column} < {KEPT} THEN {column} ELSE {estimate} END"
    return f"CAST({column} AS {sql_type(schema.field(str(a.column)), table)})" if a.kind == "top" else column


def count_steps(view: FeatureView, named: Named, among: Sequence[Counted], schema: pa.Schema) -> Iterator[Step]:
    """Steps that end in one row per question with what `feature` reads."""
    keys, stem = keys_of(view), f"{view.name}_count"
    values = {
        "_number": _cases((i, named(c.field)) for i, c in enumerate(among) if c.kind == "quantile"),
        "_whole": _cases((i, w) for i, c in enumerate(among) if (w := _whole(c, named, schema))),
        "_text": _cases((i, named(c.field)) for i, c in enumerate(among) if c.kind == "top" and _is_text(c, schema)),
    }
    columns = [
        f"{text or f'CAST(NULL AS {kind})'} AS {name}"
        for (name, text), kind in zip(values.items(), ("DOUBLE", "BIGINT", "TEXT"), strict=True)
    ]
    some = _cases((i, f"{named(c.field)} IS NOT NULL") for i, c in enumerate(among))
    stab = Stab(
        "count", [c.window for c in among], columns, some, {"_times": "COUNT(*)"}, {"_times": "SUM(_times)"}, by=_VALUE, prepared=_edges
    )
    yield from stab_steps(view, stab)
    mine = f"PARTITION BY {keys}, _at, _window"
    tops = ", ".join(str(i) for i, c in enumerate(among) if c.kind == "top")
    frequent = f"CASE WHEN _window IN ({tops}) THEN -_times ELSE 0 END, " if tops else ""
    order = f"{mine} ORDER BY {frequent}{', '.join(_VALUE)} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    yield Step(
        f"{stem}_placed",
        "values in order: numbers and hashes by size, others by how often they occur",
        f"SELECT *, ROW_NUMBER() OVER ({mine} ORDER BY {frequent}{', '.join(_VALUE)}) AS _place, SUM(_times) OVER ({order}) AS _below, "
        f'SUM(_times) OVER ({mine}) AS _all FROM "{stem}_found"',
    )
    made = dict(item for a in view.aggregates if a.kind in KINDS for item in _picked(a, among, schema).items())
    picked = ", ".join(f"{text} AS {name}" for name, text in made.items())
    yield Step(f"{stem}ed", "one row per question", f'SELECT {keys}, _at, {picked} FROM "{stem}_placed" GROUP BY {keys}, _at')


def _cases(cases: Iterator[tuple[int, str]] | Sequence[tuple[int, str]]) -> str:
    texts = " ".join(f"WHEN {number} THEN {text}" for number, text in cases)
    return f"CASE _window {texts} END" if texts else ""


def _is_text(c: Counted, schema: pa.Schema) -> bool:
    kind = schema.field(c.field.column).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _whole(c: Counted, named: Named, schema: pa.Schema) -> str:
    if c.kind == "distinct":
        return f"TM_HEX(SUBSTR(MD5(CAST({named(c.field)} AS TEXT)), 1, 15))"
    return f"CAST({named(c.field)} AS BIGINT)" if c.kind == "top" and not _is_text(c, schema) else ""


def _edges(pieces: str, _piece: str) -> str:
    """Add `_edge`, the edge of a number's bucket that is nearest to zero: what its first 8 bits after the point say."""
    size = "ABS(_number)"
    guess = f"SELECT *, CAST(CASE WHEN {size} > 0 THEN GREATEST(FLOOR(LN({size}) / 0.6931471805599453), -1022) ELSE 0 END AS INT) AS _guess FROM ({pieces}) AS g"
    near = f"SELECT *, {shifted(size, '-_guess')} AS _near FROM ({guess}) AS h"
    power = (
        f"SELECT *, GREATEST(_guess + CASE WHEN _near < 1 THEN -1 WHEN _near >= 2 THEN 1 ELSE 0 END, -1022) AS _power FROM ({near}) AS i"
    )
    steps = f"FLOOR({shifted(size, '8 - _power')})"
    edge = f"CASE WHEN _number < 0 THEN -1 ELSE 1 END * {shifted(steps, '_power - 8')} + 0.0"
    return f"SELECT *, {edge} AS _edge FROM ({power}) AS j"


def _column(a: Aggregate, among: Sequence[Counted]) -> str:
    number = among.index(_counted(a))
    return {"quantile": f"_q{number}_{re.sub('[^0-9]', '_', repr(a.q))}", "distinct": f"_d{number}", "top": f"_t{number}_{a.rank}"}[a.kind]


def _picked(a: Aggregate, among: Sequence[Counted], schema: pa.Schema) -> dict[str, str]:
    c = _counted(a)
    here, column = f"_window = {among.index(c)}", _column(a, among)
    if a.kind == "quantile":
        rank = f"GREATEST(CEIL(CAST('{a.q!r}' AS DOUBLE) * _all), 1)"
        return {column: f"MIN(CASE WHEN {here} AND _below >= {rank} THEN _edge END)"}
    if a.kind == "distinct":
        last = f"MAX(CASE WHEN {here} AND _place = {KEPT} THEN _whole END)"
        return {column: f"SUM(CASE WHEN {here} THEN 1 ELSE 0 END)", f"{column}_last": last}
    return {column: f"MAX(CASE WHEN {here} AND _place = {a.rank} THEN {'_text' if _is_text(c, schema) else '_whole'} END)"}

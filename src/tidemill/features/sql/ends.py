"""Least, greatest, first and last values of windows, and the newest row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.sql.arithmetic import leaves
from tidemill.features.sql.engines import quote
from tidemill.features.sql.fields import Shape
from tidemill.features.sql.pieces import Pieces, Windows, piece_steps
from tidemill.features.sql.tables import FOREVER, Step, key

KINDS = ("min", "max", "first", "last")
_FUNCTION = {"min": "MIN", "max": "MAX", "first": "ARG_MIN", "last": "ARG_MAX"}
_GRID = 32
"""Into how many tiles a `ttl` is cut."""
RANK = "'event': _event, 'known': _known, 'number': _order"
"""The order of rows: by event, then known time, then ingestion."""


def windows(view: FeatureView) -> list[tuple[int, int]]:
    """The windows (over, hop) of a view for which an end is asked for."""
    return sorted({(a.over_us, a.hop_us) for a in view.aggregates if a.kind in KINDS})


def feature(a: Aggregate, shape: Shape, wide: Windows) -> str:
    """The value of a feature, from columns of the last step."""
    column = _answer(a, shape, wide)
    return column if a.kind in ("min", "max") else f"{column}.value"


def _piece(a: Aggregate, shape: Shape) -> str:
    return quote(f"{a.kind}_{shape.of(a)[1:-1]}")


def _answer(a: Aggregate, shape: Shape, wide: Windows) -> str:
    return quote(f"{_piece(a, shape)[1:-1]}_{wide.index((a.over_us, a.hop_us))}")


def _ranked(row: str) -> str:
    """The order of a row that was picked; null where there is none, so that it is passed over."""
    return f"CASE WHEN {row} IS NOT NULL THEN {{'event': {row}.event, 'known': {row}.known, 'number': {row}.number}} END"


def end_steps(view: FeatureView, shape: Shape, wide: Windows) -> Iterator[Step]:
    """Steps that end in one row per question with a column per feature (for first and last a struct with its `value`)."""
    mine = [a for a in view.aggregates if a.kind in KINDS]
    columns, folded, again = dict[str, str](), dict[str, str](), dict[str, str]()
    for a in mine:
        source, piece = shape.of(a), _piece(a, shape)
        if a.kind in ("min", "max"):
            columns[source] = source
            folded[piece], again[piece] = f"{_FUNCTION[a.kind]}({source})", f"{_FUNCTION[a.kind]}({piece})"
        else:
            row = quote(f"row_{source[1:-1]}")
            columns[row] = f"CASE WHEN {source} IS NOT NULL THEN {{{RANK}, 'value': {source}}} END"
            folded[piece] = f"{_FUNCTION[a.kind]}({row}, {_ranked(row)})"
            again[piece] = f"{_FUNCTION[a.kind]}({piece}, {_ranked(piece)})"
    only = " OR ".join(dict.fromkeys(f"{shape.of(a)} IS NOT NULL" for a in mine))
    yield from piece_steps(view, Pieces("end", wide, leaves("_over", "_hop"), columns, f"({only})", folded, again))
    yield _wide(view, shape, wide, mine)


def _wide(view: FeatureView, shape: Shape, wide: Windows, mine: Sequence[Aggregate]) -> Step:
    made: dict[str, str] = {}
    for a in mine:
        here = f"CASE WHEN _window = {wide.index((a.over_us, a.hop_us))} THEN {_piece(a, shape)} END"
        made[_answer(a, shape, wide)] = f"{a.kind.upper()}({here})" if a.kind in ("min", "max") else f"ARG_MAX({here}, {_ranked(f'({here})')})"
    keys = ", ".join(key(k) for k in view.keys)
    columns = ", ".join(f"{expression} AS {name}" for name, expression in made.items())
    return Step(f"{view.name}_ends", "one row per question", f'SELECT {keys}, _at, {columns} FROM "{view.name}_end_found" GROUP BY {keys}, _at')


def conditions(view: FeatureView) -> list[str]:
    """The conditions of a view's `latest` features; a condition's place is its number in the query."""
    return sorted({a.where for a in view.aggregates if a.kind == "latest"})


def latest_feature(a: Aggregate, shape: Shape, wheres: Sequence[str]) -> str:
    """The value of a feature, from columns of the last step."""
    row = f"_newest{wheres.index(a.where)}"
    return f"CASE WHEN _at - {row}.event <= {a.ttl_us} THEN {row}.{shape.of(a)} END"


def latest_steps(view: FeatureView, shape: Shape, number: int, where: str) -> Iterator[Step]:
    """Steps that end in one row per question with `_newest…`, the row that the `latest` features of one condition are taken from."""
    latest = [a for a in view.aggregates if a.kind == "latest" and a.where == where]
    row = f"{{{RANK}, " + ", ".join(f"'{c[1:-1]}': {c}" for c in dict.fromkeys(shape.of(a) for a in latest)) + "}"
    keys = ", ".join(key(k) for k in view.keys)
    name = f"{view.name}_newest{number}"
    holds = shape.masks[where] if where else "TRUE"
    yield Step(
        f"{name}_lasting",
        "the newest of the rows that nothing supersedes: one pass, with the questions among the rows",
        _lasting(view, keys, row, holds),
    )
    rows = f'SELECT {keys}, _at, _row FROM "{name}_lasting" WHERE _row IS NOT NULL'
    if view.table.keys:
        ttl = max(a.ttl_us for a in latest)
        brief: Mapping[str, str] = {"_row": row, "_rank": f"{{{RANK}}}"}
        folded = {"_row": "ARG_MAX(_row, _rank)", "_rank": "MAX(_rank)"}
        stop, only = "_event + _over + 1", f"_end < {FOREVER} AND {holds}"
        pieces = Pieces(f"newest{number}", [(ttl, max(ttl // _GRID, 1))], stop, brief, only, folded, {"_row": "ARG_MAX(_row, _rank)"})
        yield from piece_steps(view, pieces)
        rows += f' UNION ALL SELECT {keys}, _at, _row FROM "{name}_found"'
    best = f"ARG_MAX(_row, {_ranked('_row')})"
    yield Step(name, "the newer of the two", f"SELECT {keys}, _at, {best} AS _newest{number} FROM ({rows}) AS r GROUP BY {keys}, _at")


def _lasting(view: FeatureView, keys: str, row: str, holds: str) -> str:
    some = " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)
    both = (
        f"SELECT {keys}, _visible AS _at, 0 AS _asked, {row} AS _row, {{{RANK}}} AS _rank "
        f'FROM "{view.table.name}_rows" WHERE _end = {FOREVER} AND {some} AND {holds} '
        f'UNION ALL SELECT {keys}, _at, 1, NULL, NULL FROM "{view.name}_asked"'
    )
    frame = f"PARTITION BY {keys} ORDER BY _at, _asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    newest = f"SELECT {keys}, _at, _asked, ARG_MAX(_row, _rank) OVER ({frame}) AS _row FROM ({both}) AS b"
    return f"SELECT {keys}, _at, _row FROM ({newest}) AS n WHERE _asked = 1"

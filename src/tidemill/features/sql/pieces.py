"""Aggregates that cannot be taken back (least, first, most frequent …), over the rows whose life holds a time.

Two cuts keep the join of rows with questions small. A life is cut at multiples of the hop, and pieces with equal ends become one (a
*tile*, usually), so a question meets about `over / hop` pieces and the rows around its own hop. And pieces are filed by how long they last
(up to the hop, 4 hops, 16 …): of a length a piece lies in two cells at most and a question in exactly one, so the join is on equal cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tidemill.core.definitions import FeatureView
from tidemill.features.sql.arithmetic import ceil, floor
from tidemill.features.sql.tables import Step, key

Windows = Sequence[tuple[int, int]]
"""Windows (over, hop); a window's place in it is its number in the query."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What is made of the lives of a view's rows.

    Attributes:
        name: begins the names of the steps, after the view's.
        windows: for which the lives are.
        stop: when a row leaves a window, from `_event`, `_over` and `_hop`.
        columns: what is taken from a row, by name.
        only: which rows.
        folded: aggregates over rows that make a piece, by the piece's column.
        again: aggregates over pieces that make an answer.
        items: columns that pieces and answers are kept apart by.
    """

    name: str
    windows: Windows
    stop: str
    columns: Mapping[str, str]
    only: str
    folded: Mapping[str, str]
    again: Mapping[str, str]
    items: Sequence[str] = field(default=())


def piece_steps(view: FeatureView, p: Pieces) -> Iterator[Step]:
    """Steps that end in `VIEW_NAME_found`: one row per question, window (and items) with the columns of `again`."""
    keys = ", ".join(key(k) for k in view.keys)
    yield Step(f"{view.name}_{p.name}_tiles", "lives cut at the hops, pieces with equal ends as one", _tiles(view, keys, p))
    yield Step(f"{view.name}_{p.name}_cells", "filed by length and place", _cells(view, p))
    yield Step(f"{view.name}_{p.name}_found", "what each question meets", _found(view, keys, p))


def _tiles(view: FeatureView, keys: str, p: Pieces) -> str:
    some = " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)
    values = ", ".join(f"({i}, {over}, {hop})" for i, (over, hop) in enumerate(p.windows))
    picked = ", ".join(f"{expression} AS {name}" for name, expression in p.columns.items())
    lives = (
        f"SELECT {keys}, _window, CAST(_hop AS BIGINT) AS _hop, _visible AS _start, LEAST(_end, {p.stop}) AS _stop, {picked} "
        f'FROM "{view.table.name}_rows" CROSS JOIN (VALUES {values}) AS w(_window, _over, _hop) WHERE {some} AND {p.only}'
    )
    up, down = ceil("_start", "_hop"), floor("_stop", "_hop")
    from_ = f"CASE _part WHEN 0 THEN _start WHEN 1 THEN {up} ELSE GREATEST({up}, {down}) END"
    to = f"CASE _part WHEN 0 THEN LEAST({up}, _stop) WHEN 1 THEN {down} ELSE _stop END"
    cut = f"SELECT *, {from_} AS _from, {to} AS _to FROM ({lives}) AS l CROSS JOIN (VALUES (0), (1), (2)) AS p(_part) WHERE _start < _stop"
    made = ", ".join(f"{expression} AS {name}" for name, expression in p.folded.items())
    by = ", ".join([keys, "_window", "_hop", "_from", "_to", *p.items])
    return f"SELECT {by}, {made} FROM ({cut}) AS c WHERE _from < _to GROUP BY {by}"


def _cells(view: FeatureView, p: Pieces) -> str:
    levels = max(len(w) for w in _widths(p.windows))
    width = f"CASE {' '.join(f'WHEN _to - _from <= {4**n} * _hop THEN {4**n} * _hop' for n in range(levels))} END"
    cell = f"CASE _side WHEN 0 THEN {floor('_from', '_width')} ELSE {floor('(_to - 1)', '_width')} END"
    sides = f'SELECT *, {width} AS _width FROM "{view.name}_{p.name}_tiles"'
    both = f"SELECT *, {cell} AS _cell FROM ({sides}) AS s CROSS JOIN (VALUES (0), (1)) AS e(_side)"
    return f"SELECT * FROM ({both}) AS b WHERE _side = 0 OR _cell <> {floor('_from', '_width')}"


def _found(view: FeatureView, keys: str, p: Pieces) -> str:
    equal = " AND ".join([*(f"q.{key(k)} = t.{key(k)}" for k in view.keys), *(f"q.{c} = t.{c}" for c in ("_window", "_width", "_cell"))])
    places = ", ".join(f"({number}, {width})" for number, many in enumerate(_widths(p.windows)) for width in many)
    asked = (
        f"SELECT {keys}, _at, _window, _width, {floor('_at', '_width')} AS _cell "
        f'FROM "{view.name}_asked" CROSS JOIN (VALUES {places}) AS d(_window, _width)'
    )
    by = ", ".join([*(f"q.{key(k)}" for k in view.keys), "q._at", "q._window", *(f"t.{i}" for i in p.items)])
    made = ", ".join(f"{expression} AS {name}" for name, expression in p.again.items())
    return f'SELECT {by}, {made} FROM ({asked}) AS q JOIN "{view.name}_{p.name}_cells" AS t ON {equal} AND t._from <= q._at AND q._at < t._to GROUP BY {by}'


def _widths(windows: Windows) -> list[list[int]]:
    """The lengths under which pieces of each window are filed: its hop, four times that, and so on until the longest life fits."""
    widths = []
    for over, hop in windows:
        mine = [hop]
        while mine[-1] < over + hop:
            mine.append(mine[-1] * 4)
        widths.append(mine)
    return widths

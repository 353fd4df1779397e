"""Joining rows with the questions that their lives hold, for what cannot be taken back (least, newest, counts of values).

Two cuts keep the join small. A life is cut at multiples of the hop, and pieces with equal ends become one (a
*tile*, usually), so a question meets `over / hop` pieces and the rows around its own hop. And pieces are filed by how long they last:
under one length (powers of 4) a piece lies in two cells at most and a question in exactly one, so the join is on equal cells, and
at least about one pair in eight that it makes is wanted, however long or short lives are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tidemill.core.definitions import FeatureView
from tidemill.features.sql.sums import ceil, floor
from tidemill.features.sql.tables import FOREVER, Step, key, keys_of, some_key

GRID = 32
"""Into how many tiles a `ttl` is cut."""
RANK = "{'event': _event, 'known': _known, 'number': _order}"
"""The order of `first`, `last` and `latest`: by event, then known time, then ingestion."""


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """How long a row is met by questions: while it is in a window, or (`brief`) until it is superseded or older than `over_us`."""

    over_us: int
    hop_us: int
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Stab:
    """What is asked of a view's rows in some windows; a window's place is its number, `_window`, in the query.

    `columns` of a life; `only` those with something to tell; `by` columns whose different values are kept apart; `folded` the columns of a
    tile and how they are made of pieces; `again` how those of several tiles become one. `prepared` adds columns to pieces before.
    """

    name: str
    windows: Sequence[Window]
    columns: Sequence[str]
    only: str
    folded: Mapping[str, str]
    again: Mapping[str, str]
    by: Sequence[str] = ()
    prepared: Callable[[str, str], str] = lambda pieces, _piece: pieces


def rank_of(row: str) -> str:
    """`RANK` of a struct that has it."""
    return f"{{'event': {row}.event, 'known': {row}.known, 'number': {row}.number}}"


def stab_steps(view: FeatureView, stab: Stab) -> Iterator[Step]:
    """Cut, fold and file lives; then fold what each question meets: the last step is `…_found`, a row per question, window and `by`."""
    keys, stem = keys_of(view), f"{view.name}_{stab.name}"
    apart = "".join(f", {c}" for c in stab.by)
    yield Step(f"{stem}_tiles", "lives cut at the hops, pieces with equal ends as one", _tiles(keys, apart, _lives(view, stab), stab))
    widths = {number: _widths(window) for number, window in enumerate(stab.windows)}
    most = max(len(w) for w in widths.values())
    length = "_to - _from"
    width = f"CASE {' '.join(f'WHEN {length} <= {4**n} * _hop THEN {4**n} * _hop' for n in range(most))} END"
    cell = f"CASE _side WHEN 0 THEN {floor('_from', '_width')} ELSE {floor('(_to - 1)', '_width')} END"
    sides = f'SELECT *, {width} AS _width FROM "{stem}_tiles"'
    both = f"SELECT *, {cell} AS _cell FROM ({sides}) AS s CROSS JOIN (VALUES (0), (1)) AS e(_side)"
    yield Step(
        f"{stem}_cells", "filed by length and place", f"SELECT * FROM ({both}) AS b WHERE _side = 0 OR _cell <> {floor('_from', '_width')}"
    )
    equal = " AND ".join(f"q.{key(k)} = t.{key(k)}" for k in view.keys)
    mine = ", ".join(f"q.{key(k)}" for k in view.keys)
    places = ", ".join(f"({window}, {width})" for window, many in widths.items() for width in many)
    asked = f'SELECT {keys}, _at, _window, _width, {floor("_at", "_width")} AS _cell FROM "{view.name}_asked" CROSS JOIN (VALUES {places}) AS d(_window, _width)'
    found = ", ".join(f"{expression} AS {column}" for column, expression in stab.again.items())
    yield Step(
        f"{stem}_found",
        "what each question meets",
        f'SELECT {mine}, q._at, q._window{apart}, {found} FROM ({asked}) AS q JOIN "{stem}_cells" AS t ON {equal} AND q._window = t._window '
        f"AND q._width = t._width AND q._cell = t._cell AND t._from <= q._at AND q._at < t._to GROUP BY {mine}, q._at, q._window{apart}",
    )


def _lives(view: FeatureView, stab: Stab) -> str:
    """Rows with the time [_start, _stop) for which they count in each window."""
    values = ", ".join(f"({i}, {w.over_us}, {w.hop_us}, {int(w.brief)})" for i, w in enumerate(stab.windows))
    stop, only = f"LEAST(_end, {ceil('_event', '_hop')} + _over)", f"({stab.only})"
    if any(w.brief for w in stab.windows):
        stop = f"CASE WHEN _brief = 1 THEN LEAST(_end, _event + _over + 1) ELSE {stop} END"
        only = f"CASE WHEN _brief = 1 THEN _end < {FOREVER} ELSE {only} END"
    return (
        f"SELECT {keys_of(view)}, _window, CAST(_hop AS BIGINT) AS _hop, _visible AS _start, {stop} AS _stop, {', '.join(stab.columns)} "
        f'FROM "{view.table.name}_rows" CROSS JOIN (VALUES {values}) AS w(_window, _over, _hop, _brief) '
        f"WHERE _visible < {stop} AND {some_key(view)} AND {only}"
    )


def _widths(window: Window) -> list[int]:
    """The lengths under which pieces of a window are filed: its hop, four times that, and so on until the longest life fits."""
    widths = [window.hop_us]
    while widths[-1] < window.over_us + window.hop_us:
        widths.append(widths[-1] * 4)
    return widths


def _tiles(keys: str, apart: str, lives: str, stab: Stab) -> str:
    up, down = ceil("_start", "_hop"), floor("_stop", "_hop")
    from_ = f"CASE _part WHEN 0 THEN _start WHEN 1 THEN {up} ELSE GREATEST({up}, {down}) END"
    to = f"CASE _part WHEN 0 THEN LEAST({up}, _stop) WHEN 1 THEN {down} ELSE _stop END"
    cut = f"SELECT *, {from_} AS _from, {to} AS _to FROM ({lives}) AS l CROSS JOIN (VALUES (0), (1), (2)) AS p(_part)"
    piece = f"{keys}, _window{apart}, _hop, _from, _to"
    pieces = stab.prepared(f"SELECT * FROM ({cut}) AS c WHERE _from < _to", piece)
    made = ", ".join(f"{expression} AS {column}" for column, expression in stab.folded.items())
    return f"SELECT {piece}, {made} FROM ({pieces}) AS d GROUP BY {piece}"

"""Aggregates that cannot be taken back (least, greatest, newest) over the rows whose life holds a time.

Two cuts keep the join of rows with questions small. A life is cut at multiples of the hop, and pieces with equal ends become one (a
*tile*, usually), so a question meets `over / hop` pieces and the rows around its own hop. And pieces are filed by how long they last:
under one length (powers of 4) a piece lies in two cells at most and a question in exactly one, so the join is on equal cells, and
at least about one pair in eight that it makes is wanted, however long or short lives are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.sql.engines import quote
from tidemill.features.sql.sums import ceil, floor
from tidemill.features.sql.tables import FOREVER, Step, key, measure, value

Windows = Sequence[tuple[int, int]]
"""Windows (over, hop); a window's place in it is its number in the query."""
EXTREMES = ("min", "max")
_GRID = 32
"""Into how many tiles a `ttl` is cut."""
_RANK = "{'event': _event, 'known': _known, 'number': _order}"
"""The order of `latest`: by event, then known time, then ingestion."""


def extremes(view: FeatureView) -> list[tuple[int, int]]:
    """The windows (over, hop) of a view in which the least or the greatest is asked for."""
    return sorted({(a.over_us, a.hop_us) for a in view.aggregates if a.kind in EXTREMES})


def extreme_feature(aggregate: Aggregate, windows: Windows) -> str:
    """The value of a feature, from columns of the last step."""
    return quote(f"_{aggregate.kind}{windows.index((aggregate.over_us, aggregate.hop_us))}_{aggregate.column}")


def extreme_steps(view: FeatureView, windows: Windows) -> Iterator[Step]:
    """Steps that end in one row per question with a column per extreme."""
    wanted = sorted({(a.kind, str(a.column)) for a in view.aggregates if a.kind in EXTREMES})
    columns = sorted({c for _, c in wanted})
    stop = f"LEAST(_end, {ceil('_event', '_hop')} + _over)"
    some = " OR ".join(f"{measure(c)} IS NOT NULL" for c in columns)
    lives = _lives(view, [measure(c) for c in columns], stop, windows, f"({some})")
    folded = {quote(f"{kind}_{c}"): f"{kind.upper()}({measure(c)})" for kind, c in wanted}
    again = {name: f"{name[1:4].upper()}({name})" for name in folded}
    yield from _stabbed(view, "tile", windows, lives, folded, again)
    made = ", ".join(
        f"{a.kind.upper()}(CASE WHEN _window = {windows.index((a.over_us, a.hop_us))} THEN {quote(f'{a.kind}_{a.column}')} END) AS {extreme_feature(a, windows)}"
        for a in _once(view, windows)
    )
    keys = ", ".join(key(k) for k in view.keys)
    yield Step(
        f"{view.name}_extremes", "one row per question", f'SELECT {keys}, _at, {made} FROM "{view.name}_tile_found" GROUP BY {keys}, _at'
    )


def _once(view: FeatureView, windows: Windows) -> list[Aggregate]:
    """One aggregate for each column of the last step."""
    return list({extreme_feature(a, windows): a for a in view.aggregates if a.kind in EXTREMES}.values())


def latest_feature(aggregate: Aggregate) -> str:
    """The value of a feature, from columns of the last step."""
    return f"CASE WHEN _at - _newest.event <= {aggregate.ttl_us} THEN _newest.{value(str(aggregate.column))} END"


def latest_steps(view: FeatureView) -> Iterator[Step]:
    """Steps that end in one row per question with `_newest`, the row that the view's `latest` features are taken from."""
    latest = [a for a in view.aggregates if a.kind == "latest"]
    columns = [value(c) for c in dict.fromkeys(str(a.column) for a in latest)]
    keys = ", ".join(key(k) for k in view.keys)
    row = "{'event': _event, 'known': _known, 'number': _order, " + ", ".join(f"'{c[1:-1]}': {c}" for c in columns) + "}"
    ttl = max(a.ttl_us for a in latest)
    some = " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)
    both = (
        f'SELECT {keys}, _visible AS _at, 0 AS _asked, {row} AS _row, {_RANK} AS _rank FROM "{view.table.name}_rows" WHERE _end = {FOREVER} AND {some} '
        f'UNION ALL SELECT {keys}, _at, 1, NULL, NULL FROM "{view.name}_asked"'
    )
    frame = f"PARTITION BY {keys} ORDER BY _at, _asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    newest = f"SELECT {keys}, _at, _asked, ARG_MAX(_row, _rank) OVER ({frame}) AS _row FROM ({both}) AS b"
    yield Step(
        f"{view.name}_lasting",
        "the newest of the rows that nothing supersedes: one pass, questions among the rows",
        f"SELECT {keys}, _at, _row FROM ({newest}) AS n WHERE _asked = 1",
    )
    if not view.table.keys:
        yield Step(f"{view.name}_latest", "one row per question", f'SELECT {keys}, _at, _row AS _newest FROM "{view.name}_lasting"')
        return
    windows = [(ttl, max(ttl // _GRID, 1))]
    lives = _lives(view, [f"{row} AS _row", f"{_RANK} AS _rank"], "LEAST(_end, _event + _over + 1)", windows, f"_end < {FOREVER}")
    folded = {"_row": "ARG_MAX(_row, _rank)", "_rank": "MAX(_rank)"}
    yield from _stabbed(view, "brief", windows, lives, folded, {"_row": "ARG_MAX(_row, _rank)"})
    rank = "{'event': _row.event, 'known': _row.known, 'number': _row.number}"
    rows = f'SELECT {keys}, _at, _row FROM "{view.name}_lasting" WHERE _row IS NOT NULL UNION ALL SELECT {keys}, _at, _row FROM "{view.name}_brief_found"'
    yield Step(
        f"{view.name}_latest",
        "the newer of the two",
        f"SELECT {keys}, _at, ARG_MAX(_row, {rank}) AS _newest FROM ({rows}) AS r GROUP BY {keys}, _at",
    )


def _lives(view: FeatureView, columns: list[str], stop: str, windows: Windows, only: str) -> str:
    """Rows with the time [_start, _stop) for which they count in each window."""
    keys = ", ".join(key(k) for k in view.keys)
    some = " AND ".join(f"{key(k)} IS NOT NULL" for k in view.keys)
    values = ", ".join(f"({i}, {over}, {hop})" for i, (over, hop) in enumerate(windows))
    return (
        f"SELECT {keys}, _window, CAST(_hop AS BIGINT) AS _hop, _visible AS _start, {stop} AS _stop, {', '.join(columns)} "
        f'FROM "{view.table.name}_rows" CROSS JOIN (VALUES {values}) AS w(_window, _over, _hop) WHERE _visible < {stop} AND {some} AND {only}'
    )


def _stabbed(
    view: FeatureView, name: str, windows: Windows, lives: str, folded: Mapping[str, str], again: Mapping[str, str]
) -> Iterator[Step]:
    """Cut, fold and file lives; then fold what each question meets (`…_found`)."""
    keys = ", ".join(key(k) for k in view.keys)
    made = ", ".join(f"{expression} AS {column}" for column, expression in folded.items())
    yield Step(f"{view.name}_{name}s", "lives cut at the hops, pieces with equal ends as one", _tiles(keys, lives, made))
    widths = _widths(windows)
    length = "_to - _from"
    width = (
        f"CASE {' '.join(f'WHEN {length} <= {4**n} * _hop THEN {4**n} * _hop' for n in range(max(len(w) for w in widths.values())))} END"
    )
    cell = f"CASE _side WHEN 0 THEN {floor('_from', '_width')} ELSE {floor('(_to - 1)', '_width')} END"
    sides = f'SELECT *, {width} AS _width FROM "{view.name}_{name}s"'
    both = f"SELECT *, {cell} AS _cell FROM ({sides}) AS s CROSS JOIN (VALUES (0), (1)) AS e(_side)"
    yield Step(
        f"{view.name}_{name}_cells",
        "filed by length and place",
        f"SELECT * FROM ({both}) AS b WHERE _side = 0 OR _cell <> {floor('_from', '_width')}",
    )
    equal = " AND ".join(f"q.{key(k)} = t.{key(k)}" for k in view.keys)
    mine = ", ".join(f"q.{key(k)}" for k in view.keys)
    places = ", ".join(f"({window}, {width})" for window, many in widths.items() for width in many)
    asked = f'SELECT {keys}, _at, _window, _width, {floor("_at", "_width")} AS _cell FROM "{view.name}_asked" CROSS JOIN (VALUES {places}) AS d(_window, _width)'
    found = ", ".join(f"{expression} AS {column}" for column, expression in again.items())
    yield Step(
        f"{view.name}_{name}_found",
        "what each question meets",
        f'SELECT {mine}, q._at, q._window, {found} FROM ({asked}) AS q JOIN "{view.name}_{name}_cells" AS t ON {equal} AND q._window = t._window '
        f"AND q._width = t._width AND q._cell = t._cell AND t._from <= q._at AND q._at < t._to GROUP BY {mine}, q._at, q._window",
    )


def _widths(windows: Windows) -> dict[int, list[int]]:
    """The lengths under which pieces of each window are filed: its hop, four times that, and so on until the longest life fits."""
    widths = {}
    for number, (over, hop) in enumerate(windows):
        widths[number] = [hop]
        while widths[number][-1] < over + hop:
            widths[number].append(widths[number][-1] * 4)
    return widths


def _tiles(keys: str, lives: str, made: str) -> str:
    up, down = ceil("_start", "_hop"), floor("_stop", "_hop")
    from_ = f"CASE _part WHEN 0 THEN _start WHEN 1 THEN {up} ELSE GREATEST({up}, {down}) END"
    to = f"CASE _part WHEN 0 THEN LEAST({up}, _stop) WHEN 1 THEN {down} ELSE _stop END"
    cut = f"SELECT *, {from_} AS _from, {to} AS _to FROM ({lives}) AS l CROSS JOIN (VALUES (0), (1), (2)) AS p(_part)"
    return (
        f"SELECT {keys}, _window, _hop, _from, _to, {made} FROM ({cut}) AS c WHERE _from < _to GROUP BY {keys}, _window, _hop, _from, _to"
    )

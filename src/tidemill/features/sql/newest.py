"""The newest row of each question: `latest`, for each condition that it is asked under."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.fields import Field
from tidemill.features.sql.stabs import RANK, rank_of
from tidemill.features.sql.tables import FOREVER, Named, Step, keys_of, some_key


@dataclass(frozen=True, slots=True)
class Group:
    """The `latest` features under one condition, taken from one row: `columns` of the table's rows, `mask` the condition's."""

    number: int
    where: str
    mask: str
    columns: tuple[str, ...]
    ttl_us: int


def groups(view: FeatureView, named: Named) -> list[Group]:
    """The groups of a view."""
    latest = [a for a in view.aggregates if a.kind == "latest"]
    made = []
    for i, where in enumerate(sorted({a.where for a in latest})):
        mine = [a for a in latest if a.where == where]
        columns = dict.fromkeys(named(Field("newest", str(a.column), where)) for a in mine)
        made.append(Group(i, where, named.masks.get(where, ""), tuple(columns), max(a.ttl_us for a in mine)))
    return made


def row_of(group: Group) -> str:
    """What is kept of a row: its rank and the values."""
    values = "".join(f", 'v{i}': {c}" for i, c in enumerate(group.columns))
    return f"{{'event': _event, 'known': _known, 'number': _order{values}}}"


def feature(a: Aggregate, named: Named, among: Sequence[Group]) -> str:
    """The value of a feature, from the column `_newest…` of its group."""
    group = next(g for g in among if g.where == a.where)
    value = group.columns.index(named(Field("newest", str(a.column), a.where)))
    return f"CASE WHEN _at - _newest{group.number}.event <= {a.ttl_us} THEN _newest{group.number}.v{value} END"


def newer(group: Group, *, revised: bool) -> str:
    """The row of a group, of what lasts and what was superseded since."""
    lasting, brief = f"_lasting{group.number}", f"_brief{group.number}"
    if not revised:
        return f"{lasting} AS _newest{group.number}"
    older = f"{lasting} IS NULL OR {rank_of(brief)} > {rank_of(lasting)}"
    return f"CASE WHEN {brief} IS NOT NULL AND ({older}) THEN {brief} ELSE {lasting} END AS _newest{group.number}"


def lasting_steps(view: FeatureView, among: Sequence[Group]) -> Iterator[Step]:
    """One row per question with `_lasting…`, the newest of the rows that nothing supersedes, for each group."""
    keys = keys_of(view)
    rows = ", ".join(f"{row_of(g)} AS _row{g.number}, {_ranked(g)} AS _rank{g.number}" for g in among)
    none = ", ".join("NULL, NULL" for _ in among)
    both = (
        f'SELECT {keys}, _visible AS _at, 0 AS _asked, {rows} FROM "{view.table.name}_rows" WHERE _end = {FOREVER} AND {some_key(view)} '
        f'UNION ALL SELECT {keys}, _at, 1, {none} FROM "{view.name}_asked"'
    )
    frame = f"PARTITION BY {keys} ORDER BY _at, _asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    newest = ", ".join(f"ARG_MAX(_row{g.number}, _rank{g.number}) OVER ({frame}) AS _lasting{g.number}" for g in among)
    columns = ", ".join(f"_lasting{g.number}" for g in among)
    yield Step(
        f"{view.name}_lasting",
        "the newest of the rows that nothing supersedes: one pass, questions among the rows",
        f"SELECT {keys}, _at, {columns} FROM (SELECT {keys}, _at, _asked, {newest} FROM ({both}) AS b) AS n WHERE _asked = 1",
    )


def _ranked(group: Group) -> str:
    return f"CASE WHEN {group.mask} THEN {RANK} END" if group.mask else RANK

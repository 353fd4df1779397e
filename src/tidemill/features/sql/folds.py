"""Least, greatest, first, last and standard deviation of windows, and the newest of the rows that were superseded: one pass over tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.core.aggregates import Aggregate
from tidemill.core.definitions import FeatureView
from tidemill.features.fields import field_of
from tidemill.features.sql.newest import Group, row_of
from tidemill.features.sql.spread import Spread
from tidemill.features.sql.stabs import GRID, RANK, Stab, Window, rank_of, stab_steps
from tidemill.features.sql.tables import Named, Step, keys_of

KINDS = ("min", "max", "first", "last", "std")


@dataclass(frozen=True, slots=True)
class Folds:
    """The features of a view that are folded of tiles. `groups`: what `latest` is asked for, where a row can be superseded."""

    view: FeatureView
    named: Named
    groups: Sequence[Group]

    @property
    def wanted(self) -> list[Aggregate]:
        """The features, apart from `latest`."""
        return [a for a in self.view.aggregates if a.kind in KINDS]

    @property
    def windows(self) -> list[Window]:
        """In which they are asked for; the brief one is the last."""
        ttl = max((g.ttl_us for g in self.groups), default=0)
        return sorted({Window(a.over_us, a.hop_us) for a in self.wanted}) + [Window(ttl, max(ttl // GRID, 1), brief=True)] * bool(ttl)

    def feature(self, a: Aggregate) -> str:
        """The value of a feature, from columns of the last step."""
        column = self._made(a)
        return f"{column}.value" if a.kind in ("first", "last") else column

    def steps(self) -> Iterator[Step]:
        """Steps that end in one row per question with a column per feature (`_brief…` for those of `groups`)."""
        yield from stab_steps(self.view, self._stab())
        keys, stem = keys_of(self.view), self.view.name
        made = {self._made(a): self._picked(a) for a in self.wanted}
        brief = len(self.windows) - 1
        made |= {f"_brief{g.number}": f"ARG_MAX(_brief{g.number}, CASE WHEN _window = {brief} THEN 1 END)" for g in self.groups}
        columns = ", ".join(f"{expression} AS {name}" for name, expression in made.items())
        found = f'"{stem}_fold_found"'
        for spread in self._spreads():
            found = f"({spread.finished(found)}) AS {spread.alias}"
        yield Step(f"{stem}_folds", "one row per question", f"SELECT {keys}, _at, {columns} FROM {found} GROUP BY {keys}, _at")

    def _name(self, a: Aggregate) -> str:
        field = field_of(a)
        assert field is not None
        return f"{a.kind}_{self.named(field)[1:-1]}"

    def _window(self, a: Aggregate) -> int:
        return self.windows.index(Window(a.over_us, a.hop_us))

    def _made(self, a: Aggregate) -> str:
        return f'"_{self._window(a)}_{self._name(a)}"'

    def _picked(self, a: Aggregate) -> str:
        name, here = f'"_{self._name(a)}"', f"_window = {self._window(a)}"
        if a.kind in ("first", "last"):
            return f"ARG_MAX({name}, CASE WHEN {here} THEN 1 END)"
        return f"MAX(CASE WHEN {here} THEN {name} END)"

    def _spreads(self) -> list[Spread]:
        fields = sorted({f for a in self.wanted if a.kind == "std" and (f := field_of(a)) is not None})
        return [Spread(self.named(f)) for f in fields]

    def _stab(self) -> Stab:
        folded: dict[str, str] = {}
        again: dict[str, str] = {}
        columns: dict[str, None] = {}
        for a in self.wanted:
            field = field_of(a)
            assert field is not None
            column, name = self.named(field), f'"_{self._name(a)}"'
            columns[column] = None
            if a.kind in ("min", "max"):
                folded[name], again[name] = f"{a.kind.upper()}({column})", f"{a.kind.upper()}({name})"
            elif a.kind in ("first", "last"):
                end = "ARG_MIN" if a.kind == "first" else "ARG_MAX"
                row = f"{{'event': _event, 'known': _known, 'number': _order, 'value': {column}}}"
                folded[name] = f"{end}({row}, CASE WHEN {column} IS NOT NULL THEN {RANK} END)"
                again[name] = f"{end}({name}, CASE WHEN {name} IS NOT NULL THEN {rank_of(name)} END)"
        some = " OR ".join(f"{c} IS NOT NULL" for c in columns) or "FALSE"
        spreads = self._spreads()
        for spread in spreads:
            folded |= spread.folded
            again |= spread.again
        for group in self.groups:
            name = f"_brief{group.number}"
            here = f"_window = {len(self.windows) - 1}" + (f" AND {group.mask}" if group.mask else "")
            folded[name] = f"ARG_MAX({row_of(group)}, CASE WHEN {here} THEN {RANK} END)"
            again[name] = f"ARG_MAX({name}, CASE WHEN {name} IS NOT NULL THEN {rank_of(name)} END)"
            columns |= dict.fromkeys((*group.columns, *([group.mask] if group.mask else [])))

        def prepared(pieces: str, piece: str) -> str:
            for spread in spreads:
                pieces = spread.prepared(pieces, piece)
            return pieces

        return Stab("fold", self.windows, ["_event", "_known", "_order", *columns], some, folded, again, prepared=prepared)

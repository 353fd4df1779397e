"""From names of features to a look-up that is compiled once: which views to read, which functions to call, what to answer in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from tidemill.core.definitions import Definitions, FeatureService, FeatureView, OnDemand, Table
from tidemill.core.errors import InvalidError, NotFoundError, not_found
from tidemill.features.ports import AT

SchemaOf = Callable[[Table], pa.Schema | None]
"""The columns of a table, None while it has none."""
Check = Callable[[list[Any]], list[Any]]
"""Checks the values of one entity column and makes them what the store has; raises `InvalidError`."""


_DIGITS = re.compile(r"-?[0-9]{1,19}")


class MissingError(NotFoundError):
    """Something that was named is not there; `kind` is Feast's name of the error, so that its SDK raises what it always has."""

    def __init__(self, kind: str, error: NotFoundError) -> None:
        super().__init__(str(error))
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Output:
    """One feature of the answer. `view` is its place among the views that are read, -1 for an on-demand feature; `ttl_us` is -1 without one."""

    shown: str
    name: str
    view: int = -1
    ttl_us: int = -1
    time: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A look-up, compiled. `columns` are the entity columns that a request must carry, `checks` those of the keys among them."""

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    checks: Mapping[str, Check]
    views: tuple[FeatureView, ...]
    outputs: tuple[Output, ...]
    on_demand: FeatureService | None
    inputs: tuple[tuple[str, int, bool, bool], ...]
    """Of the on-demand features: name, place of its view (-1: the request), whether it is a time, whether a text."""


def compile_plan(definitions: Definitions, schema_of: SchemaOf, service: str | None, features: Sequence[str], *, full: bool) -> Plan:
    """Compile what a request names.

    Args:
        definitions: the project's.
        schema_of: column types, to check keys by.
        service: a feature service (or a service), or None for
        features: names `view:feature`, or `function:feature` of on-demand features.
        full: whether answers are named `view__feature`.

    Raises:
        MissingError: a service, view or feature that there is not.
        InvalidError: neither or both are given, or two features would have one name.
    """
    if bool(service) == bool(features):
        raise InvalidError("name what to read: either feature_service, or features as a list of 'view:feature'")
    picked = _of_service(definitions, service) if service else [p for ref in features for p in _of_name(definitions, ref)]
    return _Compiler(definitions, schema_of).plan(picked, full)


Picked = tuple[FeatureView, str] | OnDemand
"""A view with the full name of one of its features, or an on-demand feature."""


def _of_service(definitions: Definitions, name: str) -> list[Picked]:
    found = definitions.feature_services.get(name) or definitions.services.get(name)
    if found is None:
        known = [*definitions.feature_services, *definitions.services]
        raise MissingError("FeatureServiceNotFoundException", not_found("feature service", name, known))
    picked: list[Picked] = []
    for feature in found.features:
        if isinstance(feature, FeatureView):
            picked += [(feature, full) for full in feature.columns]
        elif isinstance(feature, OnDemand):
            picked.append(feature)
        elif isinstance(found, FeatureService):
            picked += _of_name(definitions, feature)
    return picked


def _of_name(definitions: Definitions, reference: str) -> list[Picked]:
    owner, colon, feature = reference.partition(":")
    made = definitions.on_demand.get(f"{owner}__{feature}" if colon and feature != owner else owner) or definitions.on_demand.get(
        f"{owner}__{feature}"
    )
    if made is not None:
        return [made]
    if owner not in definitions.views:
        raise MissingError("FeatureViewNotFoundException", not_found("feature view", owner, definitions.views))
    view = definitions.views[owner]
    if not colon:
        raise InvalidError(f"{reference!r} names a view; write {owner}:FEATURE, its features are {_short(view)}")
    full = f"{owner}__{feature}"
    if full not in view.columns:
        raise MissingError("FeatureViewNotFoundException", not_found(f"feature of view {owner!r}", feature, _short(view).split(", ")))
    return [(view, full)]


def _short(view: FeatureView) -> str:
    return ", ".join(a.name for a in view.aggregates)


class _Compiler:
    """Collects what the features of one request need."""

    def __init__(self, definitions: Definitions, schema_of: SchemaOf) -> None:
        self.definitions = definitions
        self.schemas = {name: schema_of(table) for name, table in definitions.tables.items()}
        self.clocks = {c for t in definitions.tables.values() for c in (t.event_time, t.known_time)} | {AT}
        self.views: list[FeatureView] = []
        self.functions: list[OnDemand] = []
        self.inputs: dict[str, tuple[str, int, bool, bool]] = {}
        self.asked: list[str] = []

    def plan(self, picked: Sequence[Picked], full: bool) -> Plan:
        outputs: list[Output] = []
        for feature in picked:
            if isinstance(feature, OnDemand):
                self._need(feature)
                owner, _, short = feature.name.rpartition("__")
                outputs.append(Output(feature.name if full or not owner else short, feature.name))
            else:
                outputs.append(self._output(*feature, full))
        shown = [o.shown for o in outputs]
        if twice := sorted({n for n in shown if shown.count(n) > 1}):
            raise InvalidError(f"the features named {', '.join(twice)} come twice; ask for full_feature_names, or name each once")
        keys = tuple(dict.fromkeys(k for v in self.views for k in v.keys))
        checks = {k: self._check(k) for k in keys}
        columns = tuple(dict.fromkeys((*keys, *self.asked)))
        made = FeatureService("asked", self.functions) if self.functions else None
        return Plan(keys, columns, checks, tuple(self.views), tuple(outputs), made, tuple(self.inputs.values()))

    def _output(self, view: FeatureView, name: str, full: bool) -> Output:
        aggregate = next(a for a in view.aggregates if view.full_name(a) == name)
        ttl = aggregate.ttl_us if aggregate.kind == "latest" else -1
        kind = self._type(view, aggregate.column)
        time = ttl >= 0 and kind is not None and pa.types.is_temporal(kind)
        return Output(name if full else aggregate.name, name, self._place(view), ttl, time)

    def _place(self, view: FeatureView) -> int:
        if view not in self.views:
            self.views.append(view)
        return self.views.index(view)

    def _type(self, view: FeatureView, column: str | None) -> pa.DataType | None:
        schema = self.schemas.get(view.table.name)
        return schema.field(column).type if schema is not None and column is not None and column in schema.names else None

    def _need(self, feature: OnDemand) -> None:
        """Note an on-demand feature, behind those that it reads."""
        if feature in self.functions:
            return
        for name in feature.inputs:
            if name in self.definitions.on_demand:
                self._need(self.definitions.on_demand[name])
            elif name not in self.inputs:
                self.inputs[name] = self._input(name)
        self.functions.append(feature)

    def _input(self, name: str) -> tuple[str, int, bool, bool]:
        for view in self.definitions.views.values():
            for aggregate in view.aggregates:
                if view.full_name(aggregate) == name:
                    kind = self._type(view, aggregate.column) if aggregate.kind == "latest" else None
                    return name, self._place(view), kind is not None and pa.types.is_temporal(kind), kind is not None and _is_text(kind)
        if name != AT:
            self.asked.append(name)
        return name, -1, name in self.clocks, False

    def _check(self, key: str) -> Check:
        for view in self.views:
            if key in view.keys and (kind := self._type(view, key)) is not None:
                if pa.types.is_integer(kind):
                    return partial(_whole, key, str(kind))
                if _is_text(kind):
                    return partial(_texts, key, str(kind))
        return partial(_plain, key)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _whole(key: str, kind: str, values: list[Any]) -> list[Any]:
    """Whole numbers; a text of digits and a float without a fraction are what they say."""
    out = []
    for row, value in enumerate(values):
        if type(value) is int or value is None:
            out.append(value)
        elif (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and _DIGITS.fullmatch(value)):
            out.append(int(value))
        else:
            raise _wrong(key, kind, row, value)
    return out


def _texts(key: str, kind: str, values: list[Any]) -> list[Any]:
    for row, value in enumerate(values):
        if value is not None and type(value) is not str:
            raise _wrong(key, kind, row, value)
    return values


def _plain(key: str, values: list[Any]) -> list[Any]:
    for row, value in enumerate(values):
        if isinstance(value, list | dict):
            raise _wrong(key, "one value", row, value)
    return values


_SPELLED = {
    str: "a text",
    bool: "true or false",
    float: "a number with a fraction",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}


def _wrong(key: str, kind: str, row: int, value: Any) -> InvalidError:
    shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "…"
    return InvalidError(f"the entity column {key!r} is {kind}; row {row} has {_SPELLED.get(type(value), type(value).__name__)}: {shown}")

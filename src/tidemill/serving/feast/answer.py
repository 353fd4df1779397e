"""Answering `POST /get-online-features` as Feast's feature server does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.core.definitions import Definitions, FeatureService
from tidemill.core.errors import InvalidError
from tidemill.core.instants import SECOND_US, format_instant, parse_instant, to_us
from tidemill.features.ports import AT, FeatureLookup, Found
from tidemill.serving.feast.compile import Plan, SchemaOf, compile_plan
from tidemill.serving.plan import as_array

Apply = Callable[[FeatureService, Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""`tidemill.features.apply_on_demand`."""
PLANS = 256
"""Compiled look-ups kept."""
_NEVER = "1970-01-01T00:00:00Z"


class OnlineRequest(msgspec.Struct, gc=False):
    """The body of `/get-online-features`: what to read, and the entities by column."""

    entities: dict[str, list[Any]]
    feature_service: str | None = None
    features: list[str] = []
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class _Result(msgspec.Struct, gc=False):
    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class _Metadata(msgspec.Struct, gc=False):
    feature_names: list[str]
    feature_view_metadata: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct, gc=False):
    results: list[_Result]
    metadata: _Metadata


_encode = msgspec.json.Encoder().encode
_PRESENT = ["PRESENT"]


@dataclass(slots=True, eq=False)
class Asked:
    """A request, understood: its columns, and the same row by row. `versions`: whether it wants those of the views."""

    plan: Plan
    columns: dict[str, list[Any]]
    rows: list[dict[str, Any]]
    versions: bool


class Reader:
    """Reads features by name. Plans are compiled once and kept, the last `PLANS` of them."""

    def __init__(self, definitions: Definitions, lookup: FeatureLookup, apply: Apply, schema_of: SchemaOf, *, max_keys: int) -> None:
        self._definitions = definitions
        self._lookup = lookup
        self._apply = apply
        self._schema_of = schema_of
        self._max_keys = max_keys
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def plan(self, request: OnlineRequest) -> Plan:
        """The compiled look-up of a request. Raises `MissingError`, `InvalidError`."""
        key = (request.feature_service, request.full_feature_names, *request.features)
        found = self._plans.get(key)
        if found is None:
            found = compile_plan(
                self._definitions, self._schema_of, request.feature_service, request.features, full=request.full_feature_names
            )
            if len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            if all(self._schema_of(view.table) is not None for view in found.views):  # else compile again: types may come
                self._plans[key] = found
        return found

    def look(self) -> None:
        """See what has been pushed up to now."""
        self._lookup.look()

    def answer(self, request: OnlineRequest, at_us: int) -> bytes:
        """The response body. Raises `MissingError`, `InvalidError` (columns, lengths, types, too many keys)."""
        asked = self.understood(request)
        return self._answered(asked, self._find(asked.plan, asked.rows, at_us), at_us)

    def understood(self, request: OnlineRequest) -> Asked:
        """What a request asks for. Raises `MissingError`, `InvalidError`."""
        plan = self.plan(request)
        columns = self._columns(plan, request.entities)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return Asked(plan, columns, rows, request.include_feature_view_version_metadata)

    def answer_together(self, several: Sequence[Asked], at_us: int) -> list[bytes | Exception]:
        """The response bodies of requests with one plan, from one look-up; where a request fails, what it failed with."""
        try:
            found = iter(self._find(several[0].plan, [row for asked in several for row in asked.rows], at_us))
            return [self._answered(asked, [next(found) for _ in asked.rows], at_us) for asked in several]
        except Exception as error:  # noqa: BLE001 - a function of the user's may raise anything; it is the answer to that request alone
            if len(several) == 1:
                return [error]
            return [answer for asked in several for answer in self.answer_together([asked], at_us)]

    def _find(self, plan: Plan, rows: Sequence[Mapping[str, Any]], at_us: int) -> Sequence[Sequence[Found]]:
        return self._lookup.find(plan.views, rows, at_us) if plan.views else [[] for _ in rows]

    def _answered(self, asked: Asked, found: Sequence[Sequence[Found]], at_us: int) -> bytes:
        plan, rows = asked.plan, len(asked.rows)
        made = self._computed(plan, asked.columns, found, at_us) if plan.on_demand else {}
        results = [_Result(asked.columns[k], ["PRESENT"] * rows, [_NEVER] * rows) for k in plan.keys]
        if rows == 1 and not made:
            _one(plan, found[0], at_us, results)
        else:
            _many(plan, found, made, at_us, results)
        names = [*plan.keys, *(o.shown for o in plan.outputs)]
        views = [{"name": v.name, "version": 0} for v in plan.views] if asked.versions else msgspec.UNSET
        return _encode(_Response(results, _Metadata(names, views)))

    def _columns(self, plan: Plan, entities: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns that the plan needs, checked and of one length. Others are passed over, as Feast does."""
        if missing := [c for c in plan.columns if c not in entities]:
            raise InvalidError(
                f"entities lacks {', '.join(map(repr, missing))}; what is asked for takes {', '.join(plan.columns)}, "
                f"the request has {', '.join(entities) or 'none'}"
            )
        columns = {name: entities[name] for name in plan.columns}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1 or 0 in lengths:
            told = ", ".join(f"{name}: {len(values)}" for name, values in columns.items())
            raise InvalidError(f"every entity column must have the same number of rows, at least one; these have {told}")
        rows = lengths.pop()
        if rows > self._max_keys:
            raise InvalidError(f"{rows:,} keys in one request; {self._max_keys:,} at most, send the others in further requests")
        for name, check in plan.checks.items():
            columns[name] = check(columns[name])
        return columns

    def _computed(self, plan: Plan, columns: Mapping[str, list[Any]], found: Sequence[Sequence[Found]], at_us: int) -> dict[str, list[Any]]:
        assert plan.on_demand is not None
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, view, time, text in plan.inputs:
            given = [at_us] * len(found) if name == AT else columns.get(name, [])
            arrays[name] = as_array(name, [row[view].values[name] for row in found] if view >= 0 else given, time=time, text=text)
        computed = self._apply(plan.on_demand, arrays)
        return {f.name: [_json(v) for v in _listed(computed[f.name])] for f in plan.on_demand.on_demand}


def _one(plan: Plan, found: Sequence[Found], at_us: int, results: list[_Result]) -> None:
    """The features of one row, which is what most requests ask for."""
    stamps = [[_stamp(f.event_us)] for f in found]
    for out in plan.outputs:
        f = found[out.view]
        value = f.values[out.name]
        status = _PRESENT if value is not None and f.known else [_status(value, f, out.ttl_us, at_us)]
        results.append(_Result([_seconds(value) if out.time else value], status, stamps[out.view]))


def _many(plan: Plan, found: Sequence[Sequence[Found]], made: Mapping[str, list[Any]], at_us: int, results: list[_Result]) -> None:
    stamps = [[_stamp(row[i].event_us) for row in found] for i in range(len(plan.views))]
    for out in plan.outputs:
        if out.view < 0:
            values = made[out.name]
            results.append(_Result(values, ["NULL_VALUE" if v is None else "PRESENT" for v in values], [_NEVER] * len(values)))
            continue
        mine = [row[out.view] for row in found]
        values = [f.values[out.name] for f in mine]
        statuses = [_status(v, f, out.ttl_us, at_us) for v, f in zip(values, mine, strict=True)]
        results.append(_Result([_seconds(v) for v in values] if out.time else values, statuses, stamps[out.view]))


def _status(value: Any, found: Found, ttl_us: int, at_us: int) -> str:
    if not found.known:
        return "NOT_FOUND"
    if value is not None:
        return "PRESENT"
    return "OUTSIDE_MAX_AGE" if ttl_us >= 0 and (not found.event_us or at_us - found.event_us > ttl_us) else "NULL_VALUE"


@lru_cache(maxsize=4096)
def _stamp(event_us: int) -> str:
    return format_instant(event_us) if event_us else _NEVER


def _seconds(value: Any) -> Any:
    """A time as Feast's UNIX_TIMESTAMP: whole seconds."""
    if isinstance(value, datetime):
        return to_us(value) // SECOND_US
    if isinstance(value, str):
        return parse_instant(value) // SECOND_US
    return value.isoformat() if isinstance(value, date) else value


def _listed(values: npt.NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "M":
        whole = values.astype("datetime64[us]").astype(np.int64).tolist()
        return [None if v == np.iinfo(np.int64).min else v // SECOND_US for v in whole]
    listed: list[Any] = values.tolist()
    return listed


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value

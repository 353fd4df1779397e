"""What the processor and the reader share: compiled views, how keys are spelled, and state made under other definitions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError, LostError, not_found
from tidemill.core.meaning import table_digest, view_digest
from tidemill.features.embedded.memory import TableMemory, segments
from tidemill.features.embedded.published import Lookup
from tidemill.features.embedded.tiles import ViewPlan
from tidemill.features.ports import OnlineStore


class Plans:
    """The views of a project by name, each compiled once, and their tables."""

    def __init__(self, definitions: Definitions, lookup: Lookup | None = None) -> None:
        self._lookup = lookup
        self.by_name = {v.name: ViewPlan(v) for v in definitions.views.values()}
        self.tables = {v.table.name: v.table for v in definitions.views.values()}
        self.stale: set[str] = set()

    def of(self, view: FeatureView) -> ViewPlan:
        """The plan of a view. Raises `NotFoundError`, and `InvalidError` when the view or the state of its table is another one."""
        plan = self.by_name.get(view.name)
        if plan is None:
            raise not_found("feature view", view.name, self.by_name)
        if plan.view is not view and view_digest(plan.view) != view_digest(view):
            raise InvalidError(f"feature view {view.name!r} is not the one that was opened; open the online store with the new definitions")
        if self.stale:
            self.check(view.table.name)
        return plan

    def check(self, table: str) -> None:
        """Raise `InvalidError` when the online state of a table was made under other definitions."""
        if table in self.stale:
            raise InvalidError(
                f"the feature views of table {table!r} have changed since their online state was made; run `tidemill features materialize`"
            )

    def memory(self, table: str) -> TableMemory:
        """An empty memory of a table."""
        plans = [p for p in self.by_name.values() if p.view.table.name == table]
        return TableMemory(self.tables[table], plans, table_digest([p.view for p in plans]), self._lookup)

    def load(self, table: str, online: OnlineStore, cursors: Mapping[str, str]) -> tuple[TableMemory, int | None]:
        """The memory of a table as it was committed, and the clock it was committed at; marks the table as stale when its views changed. Raises `LostError`."""
        memory = self.memory(table)
        if table not in cursors:
            return memory, None
        cursor = json.loads(cursors[table])
        if cursor["digest"] != memory.digest:
            self.stale.add(table)
            return memory, None
        bodies = online.read(segments(memory.table, cursor))
        if None in bodies:
            raise LostError(f"the online store has lost rows of table {table!r}; run `tidemill features materialize`")
        memory.load(cursor, bodies)
        return memory, cursor["clock_us"]


def key_text(key: Any) -> str:
    """How a key is spelled in the store."""
    if type(key) is int:
        return f"[{key}]"
    if type(key) is str and key.isalnum() and key.isascii():
        return f'["{key}"]'
    parts: Collection[Any] = key if isinstance(key, tuple) else (key,)
    return msgspec.json.encode([int(p) if isinstance(p, float) and p.is_integer() else p for p in parts]).decode()


def key_texts(keys: pa.Array | Sequence[Any]) -> pa.Array:
    """How many keys are spelled; quickest for an array of integers or of plain texts."""
    if isinstance(keys, pa.Array) and pt.is_int64(keys.type):
        return pc.binary_join_element_wise("[", keys.cast(pa.string()), "]", "")
    if isinstance(keys, pa.Array) and pt.is_string(keys.type) and pc.all(pc.ascii_is_alnum(keys)).as_py():
        return pc.binary_join_element_wise('["', keys, '"]', "")
    return pa.array([key_text(key) for key in (keys.to_pylist() if isinstance(keys, pa.Array) else keys)], pa.string())


def request_key(plan: ViewPlan, request: Mapping[str, Any]) -> Any:
    """The key of a view in a request, None where a part of it is null. Raises `InvalidError` when a part is not there."""
    keys = plan.keys
    try:
        if len(keys) == 1:
            return request[keys[0]]
        values = tuple([request[k] for k in keys])
    except KeyError as error:
        raise InvalidError(f"the request lacks {error.args[0]!r}, a key of feature view {plan.view.name!r}") from None
    return None if None in values else values

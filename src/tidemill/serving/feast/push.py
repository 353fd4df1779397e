"""`POST /push` and `POST /write-to-online-store`: rows go to the table's stream, from where they reach online values and table alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from tidemill.core.clock import Clock
from tidemill.core.definitions import Definitions, Table
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import format_instant, parse_instant
from tidemill.ingestion.ports import Stream
from tidemill.serving.feast.compile import MissingError, SchemaOf

TO = ("online", "offline", "online_and_offline")
_FEAST_EVENT, _FEAST_CREATED = "event_timestamp", "created"
"""What Feast's remote store calls the two clocks, whatever the source calls them."""


class PushRequest(msgspec.Struct, gc=False):
    """The body of `/push`: rows by column."""

    push_source_name: str
    df: dict[str, list[Any]]
    to: str = "online"


class WriteRequest(msgspec.Struct, gc=False):
    """The body of `/write-to-online-store`, which Feast's remote store sends for each feature view."""

    feature_view_name: str
    df: dict[str, list[Any]]


class Pusher:
    """Takes pushed rows. They are durable when a method returns."""

    def __init__(self, definitions: Definitions, stream: Stream, schema_of: SchemaOf, clock: Clock, *, max_rows: int) -> None:
        self._definitions = definitions
        self._stream = stream
        self._schema_of = schema_of
        self._clock = clock
        self._max_rows = max_rows
        self._tables = {name: t for t in definitions.tables.values() for name in (t.pushed_as, t.name) if t.pushed_as}

    def push(self, request: PushRequest) -> dict[str, Any]:
        """Append rows to the table behind a push source. Raises `MissingError`, `InvalidError`."""
        if request.to not in TO:
            raise InvalidError(f"'to' is {request.to!r}; it must be one of {', '.join(TO)}")
        table = self._tables.get(request.push_source_name)
        if table is None:
            known = [t.pushed_as for t in self._tables.values()]
            raise MissingError("PushSourceNotFoundException", not_found("push source", request.push_source_name, known))
        return self._append(table, request.df)

    def write(self, request: WriteRequest) -> dict[str, Any]:
        """Append rows to the table of a feature view. Raises `MissingError`, `InvalidError`."""
        view = self._definitions.views.get(request.feature_view_name)
        if view is None:
            raise MissingError(
                "FeatureViewNotFoundException", not_found("feature view", request.feature_view_name, self._definitions.views)
            )
        if not view.table.pushed_as:
            raise InvalidError(
                f"table {view.table.name!r} behind feature view {view.name!r} takes no pushed rows; give it a further source: "
                f"source=(…, 'push:')"
            )
        return self._append(view.table, request.df)

    def _append(self, table: Table, df: Mapping[str, list[Any]]) -> dict[str, Any]:
        columns = self._clocks(table, dict(df))
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1 or 0 in lengths:
            told = ", ".join(f"{name}: {len(values)}" for name, values in columns.items())
            raise InvalidError(f"every column of df must have the same number of rows, at least one; these have {told}")
        rows = lengths.pop()
        if rows > self._max_rows:
            raise InvalidError(f"{rows:,} rows in one push; {self._max_rows:,} at most, send the others in further requests")
        self._complete(table, columns)
        columns = self._typed(table, columns)
        bodies = [msgspec.json.encode(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        return {"table": table.name, "rows": rows, "offset": self._stream.append(table.name, bodies)}

    def _clocks(self, table: Table, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Both clocks under the table's names. What comes without a known time is known now."""
        schema = self._schema_of(table)
        own = {table.event_time, table.known_time, *(schema.names if schema is not None else ())}
        for name, theirs in ((table.event_time, _FEAST_EVENT), (table.known_time, _FEAST_CREATED)):
            if theirs in columns and theirs not in own:
                columns.setdefault(name, columns.pop(theirs))
        if table.event_time not in columns:
            raise InvalidError(f"df lacks {table.event_time!r}, the event time of table {table.name!r}; it has {', '.join(columns)}")
        now = self._clock.now_us()
        known = columns.get(table.known_time) or [None] * len(columns[table.event_time])
        columns[table.known_time] = [now if value is None else value for value in known]
        for name in dict.fromkeys((table.event_time, table.known_time)):
            columns[name] = [format_instant(_micros(table, name, i, value)) for i, value in enumerate(columns[name])]
        return columns

    def _complete(self, table: Table, columns: Mapping[str, Any]) -> None:
        views = [v for v in self._definitions.views.values() if v.table.name == table.name]
        wanted = [*table.keys, *(k for v in views for k in v.keys), *(str(a.column) for v in views for a in v.aggregates if a.column)]
        if missing := sorted({name for name in wanted if name} - set(columns)):
            raise InvalidError(
                f"df lacks {', '.join(missing)}; a row of table {table.name!r} is read by {', '.join(v.name for v in views)}, "
                "and a column left out would be a null for all of them"
            )

    def _typed(self, table: Table, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        schema = self._schema_of(table)
        if schema is None:
            return columns
        return {
            name: _cast(table, name, schema.field(name).type, values) if name in schema.names else values
            for name, values in columns.items()
        }


def _micros(table: Table, name: str, row: int, value: Any) -> int:
    if isinstance(value, str):
        return parse_instant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidError(f"row {row}: {name!r}, a clock of table {table.name!r}, is an ISO 8601 text or microseconds, not {value!r}")


def _cast(table: Table, name: str, kind: pa.DataType, values: Sequence[Any]) -> list[Any]:
    """Values as the table will have them. Raises `InvalidError` naming the column and both types."""
    if pa.types.is_temporal(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return list(values)
    try:
        array = pa.array(values, from_pandas=True)
        if array.type == kind or (pa.types.is_string(array.type) and pa.types.is_large_string(kind)):
            return list(values)
        if pa.types.is_null(array.type) or (_number(kind) and _number(array.type)):
            cast: list[Any] = array.cast(kind).to_pylist()
            return cast
        given = str(array.type)
    except pa.ArrowException as error:
        given = f"mixed or out of range ({str(error)[:100]})"
    raise InvalidError(f"column {name!r} of table {table.name!r} is {kind}, the pushed values are {given}; nothing was taken")


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

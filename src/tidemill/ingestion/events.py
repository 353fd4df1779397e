"""Records of a stream as rows of a table: JSON objects with both clocks. What cannot be a row is refused by itself, with the reason.

A record without a known time became known when the stream took it. A record whose times lie too far ahead of its arrival is refused:
its clock is wrong, or it speaks of what has not happened. Every judgement depends on the record alone, never on when it is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import SECOND_US, format_duration, parse_duration, parse_instant
from tidemill.ingestion.conform import TIME, conform, storable
from tidemill.ingestion.ports import Record

SKEW_US = parse_duration("1h")
"""How far the times of an event may lie ahead of its arrival, unless its table or the configuration says otherwise."""
_LATEST_US = 253_402_300_800_000_000
"""The year 10000: what is behind it cannot be written as ISO 8601."""
_DECODE = msgspec.json.Decoder().decode
Kind = Literal["unreadable", "incomplete", "future", "type", "invalid"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is no row.

    `kind`: it is no JSON object (unreadable), lacks a clock or a part of the key (incomplete), its times lie ahead (future), a value has
    another type than in the table (type), or online state cannot take it (invalid).
    """

    record: Record
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Events:
    """Records, read: the rows, and what was refused, both in the order of the records."""

    rows: pa.Table
    refused: list[Refused]


def skew_of(table: Table, default_us: int = SKEW_US) -> int:
    """How far ahead of its arrival an event of a table may lie."""
    return parse_duration(table.skew) if table.skew else default_us


def read_events(records: Sequence[Record], table: Table, *, skew_us: int, schema: pa.Schema | None = None) -> Events:
    """Read records as rows of a table.

    Args:
        records: JSON objects; times are ISO 8601 (UTC without a zone) or whole microseconds.
        table: names both clocks and the key.
        skew_us: how far the times may lie ahead of the record's arrival.
        schema: what is published of the table: values become of its types, and those that do not fit are refused. Without it types are
            inferred, and columns of mixed types are texts.
    """
    refused: dict[int, Refused] = {}
    objects: list[dict[str, Any]] = []
    read: list[Record] = []
    for record in records:
        try:
            found = _json(record.body)
        except ValueError as error:
            refused[id(record)] = Refused(record, "unreadable", f"not JSON: {error}")
            continue
        if type(found) is dict:
            objects.append(found)
            read.append(record)
        else:
            refused[id(record)] = Refused(record, "unreadable", f"JSON, but no object: {record.body[:40]!r}")
    clocks = _clocks(objects, read, table)
    bad = _suspects(objects, read, clocks, table, skew_us)
    if bad.any():
        for i in np.flatnonzero(bad).tolist():
            refused[id(read[i])] = _judged(read[i], i, objects[i], clocks, table, skew_us)
        keep = np.flatnonzero(~bad).tolist()
        objects, read = [objects[i] for i in keep], [read[i] for i in keep]
        clocks = {name: (values[keep], {}) for name, (values, _) in clocks.items()}
    rows = storable(pa.table(_columns(objects, {name: values for name, (values, _) in clocks.items()})), table)
    if schema is not None:
        rows = _fitting(rows, read, schema, refused)
    return Events(rows, [refused[id(r)] for r in records if id(r) in refused])


def _json(body: bytes) -> Any:
    try:
        return _DECODE(body)
    except msgspec.DecodeError:
        return json.loads(body)  # which also knows NaN and Infinity, as Python's own `json` writes them


_Clock = tuple[npt.NDArray[np.int64], dict[int, str]]
"""Microseconds of each row, and why some have none."""


def _clocks(objects: list[dict[str, Any]], records: list[Record], table: Table) -> dict[str, _Clock]:
    names = (table.event_time, table.known_time)
    found = {name: [o.get(name) for o in objects] for name in names}
    if table.known_time != table.event_time:
        known = found[table.known_time]
        found[table.known_time] = [(r.at_us or None) if v is None else v for v, r in zip(known, records, strict=True)]
    return {name: _instants(name, found[name]) for name in dict.fromkeys(names)}


def _instants(name: str, values: list[Any]) -> _Clock:
    try:  # the whole column at once, as good events allow
        array = pa.array(values)
        if pa.types.is_string(array.type):
            array = array.cast(TIME)
        if (pa.types.is_integer(array.type) or array.type == TIME) and not array.null_count:
            whole = array.cast(pa.int64()).to_numpy()
            if not len(whole) or abs(whole).max() < _LATEST_US:
                return whole, {}
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass
    out, wrong = np.zeros(len(values), dtype=np.int64), dict[int, str]()
    for i, value in enumerate(values):
        try:
            out[i] = _instant(value)
        except (InvalidError, OverflowError) as error:
            wrong[i] = f"lacks {name}" if value is None else f"{name}: {error}"
    return out, wrong


def _instant(value: Any) -> int:
    if isinstance(value, str):
        return parse_instant(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _LATEST_US:
        raise InvalidError(f"{value!r} is no time; write ISO 8601 or whole microseconds")
    return value


def _suspects(
    objects: list[dict[str, Any]], records: list[Record], clocks: dict[str, _Clock], table: Table, skew_us: int
) -> npt.NDArray[np.bool_]:
    """Which records are no rows."""
    bad = np.zeros(len(objects), dtype=bool)
    for _, wrong in clocks.values():
        bad[list(wrong)] = True
    for key in table.keys:
        if key not in clocks:
            bad |= np.fromiter((row.get(key) is None for row in objects), bool, len(objects))
    came = np.fromiter((r.at_us for r in records), np.int64, len(records))
    for values, _ in clocks.values():
        bad |= (came > 0) & (values - came > skew_us)
    return bad


def _judged(record: Record, i: int, row: dict[str, Any], clocks: dict[str, _Clock], table: Table, skew_us: int) -> Refused:
    """Why a record is no row."""
    for _, wrong in clocks.values():
        if i in wrong:
            return Refused(record, "incomplete", wrong[i])
    for key in table.keys:
        if key not in clocks and row.get(key) is None:
            return Refused(record, "incomplete", f"lacks {key}, of the key of table {table.name!r}")
    name = max(clocks, key=lambda n: int(clocks[n][0][i]))
    ahead = int(clocks[name][0][i]) - record.at_us
    return Refused(record, "future", f"{name} lies {_in_words(ahead)} ahead of its arrival; {_in_words(skew_us)} is allowed")


def _in_words(us: int) -> str:
    """A duration in its two largest units, rounded down."""
    seconds = us // SECOND_US
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    parts = [
        f"{seconds // size % most}{unit}" for (unit, size), most in zip(units, (10**9, 24, 60, 60), strict=True) if seconds // size % most
    ]
    return "".join(parts[:2]) or format_duration(us)


def _columns(objects: list[dict[str, Any]], clocks: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
    names = dict.fromkeys(key for row in objects for key in row) | dict.fromkeys(clocks)
    return {
        name: pa.array(clocks[name]).cast(TIME) if name in clocks else _array([row.get(name) for row in objects])
        for name in names
    }  # fmt: skip


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())


def _fitting(rows: pa.Table, records: list[Record], schema: pa.Schema, refused: dict[int, Refused]) -> pa.Table:
    """The rows in the table's types; those with a value that has another one are refused."""
    fit, misfits = conform(rows, schema)
    if not misfits:
        return fit
    good = np.ones(rows.num_rows, dtype=bool)
    for misfit in misfits:
        name = misfit.column
        one = pa.schema([schema.field(name)])
        for i in np.flatnonzero(good & np.asarray(rows[name].is_valid())).tolist():
            if conform(rows.select([name]).slice(i, 1), one)[1]:
                good[i] = False
                reason = f"{name} is {one.field(0).type} in the table, not {str(rows[name][i].as_py())[:80]!r}"
                refused[id(records[i])] = Refused(records[i], "type", reason)
    left = rows.filter(pa.array(good))
    for misfit in conform(left, schema)[1]:  # of one type, value by value, and not together
        gone = np.asarray(left[misfit.column].is_valid())
        for i in np.flatnonzero(good)[gone].tolist():
            refused[id(records[i])] = Refused(records[i], "type", f"{misfit.column}: {misfit.observed}, not {misfit.expected}")
        good[np.flatnonzero(good)[gone]] = False
        left = rows.filter(pa.array(good))
    return conform(left, schema)[0]

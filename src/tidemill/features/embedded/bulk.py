"""All rows of a table into the states of all keys at once, without pushing them row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tidemill.core.definitions import Table
from tidemill.features.embedded import decode, grouped
from tidemill.features.embedded.decode import Batch
from tidemill.features.embedded.hashing import Bools
from tidemill.features.embedded.memory import REWIND_US
from tidemill.features.embedded.plans import key_text
from tidemill.features.embedded.source import Int64
from tidemill.features.embedded.tiles import FOREVER, State, ViewPlan, pack
from tidemill.versioning.ports import Scan

KEYS = 100_000
"""States that are made, and written, together."""
Made = tuple[dict[tuple[str, str], bytes], dict[tuple[str, str], int]]
"""Packed states, and when each matters no more."""


def decoded(table: Table, plans: Sequence[ViewPlan], scan: Scan) -> Batch:
    """All rows of a table, a file at a time, in the order of ingestion."""
    parts = []
    for path in scan.paths:
        rows = ds.dataset([path.removeprefix("file://")], schema=scan.schema, format="parquet").to_table()
        decode.check(table, plans, rows)
        parts.append(decode.decode(table, plans, rows))
    if not parts:
        rows = scan.schema.empty_table()
        decode.check(table, plans, rows)
        return decode.decode(table, plans, rows)
    if len(parts) == 1:
        return parts[0]
    event, known = (np.concatenate([getattr(p, name) for p in parts]) for name in ("event", "known"))
    identity, digest = (np.concatenate([getattr(p, name) for p in parts]) for name in ("identity", "digest"))
    columns = pa.concat_tables([p.columns for p in parts], promote_options="permissive").combine_chunks()
    return Batch(event, known, identity, digest, columns, columns, np.arange(columns.num_rows))


def states(plan: ViewPlan, batch: Batch, number: Int64, end: Int64, at_us: int) -> Iterator[Made]:
    """Packed states at `at_us`, some keys at a time."""
    code, keys = decode.keys(plan, batch.columns)
    visible = np.maximum(batch.event, batch.known)
    counts = (code >= 0) & (end > visible) & (end > at_us) & (batch.event > at_us - plan.retention)
    now = counts & (visible <= at_us) & (end == FOREVER)
    later = counts & ~now
    slow = np.zeros(len(keys) + 1, dtype=bool)  # the last one stands for rows without a key, whose code is -1
    slow[code[later]] = True
    if plan.windows:
        slow[:-1] = True
    else:
        yield from _newest(plan, batch, number, code, keys, now & ~slow[code], at_us)
    yield from _all(plan, batch, (number, end, visible), code, keys, slow, counts & slow[code], at_us)


def _newest(plan: ViewPlan, batch: Batch, number: Int64, code: Int64, keys: Sequence[Any], now: Bools, at_us: int) -> Iterator[Made]:
    """States of keys that need their newest row only."""
    rows = np.flatnonzero(now & (batch.event >= at_us - plan.ttl))
    mine = code[rows]
    best = np.full(len(keys), np.iinfo(np.int64).min)
    np.maximum.at(best, mine, batch.event[rows])
    many = np.bincount(mine, minlength=len(keys)) > 1
    rows = rows[batch.event[rows] == best[mine]]
    rows = rows[np.lexsort((number[rows], batch.known[rows], code[rows]))]
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = code[rows][1:] != code[rows][:-1]
    rows = rows[last]
    encode, view = msgspec.msgpack.Encoder().encode, plan.view.name
    for first in range(0, len(rows), KEYS):
        some = rows[first : first + KEYS]
        made = decode.values(plan, batch.columns.take(pa.array(some)))
        given = (a[some].tolist() for a in (batch.event, batch.known, number, many[code] & (plan.kept > 1)))
        due = (batch.event[some] + plan.ttl + 1 + REWIND_US).tolist()
        texts = [(view, key_text(keys[i])) for i in code[some].tolist()]
        yield (
            {
                text: encode((at_us, (), (), ((event, known, n, row),), cut))
                for text, event, known, n, cut, row in zip(texts, *given, made, strict=True)
            },
            dict(zip(texts, due, strict=True)),
        )


def _all(
    plan: ViewPlan,
    batch: Batch,
    numbers: tuple[Int64, Int64, Int64],
    code: Int64,
    keys: Sequence[Any],
    wanted: Bools,
    counts: Bools,
    at_us: int,
) -> Iterator[Made]:
    """States of the wanted keys, whatever they are made of."""
    number, end, visible = numbers
    place = np.flatnonzero(counts)
    place = place[np.argsort(code[place], kind="stable")]
    owned = np.flatnonzero(wanted)
    for first in range(0, len(owned), KEYS):
        some = owned[first : first + KEYS]
        low, high = np.searchsorted(code[place], [some[0], some[-1] + 1])
        rows = place[low:high]
        made: list[State | None] = [None] * len(keys)
        for i in np.unique(code[rows]).tolist():
            made[i] = state = plan.new()
            plan.advance(state, at_us)
        now = rows[(visible[rows] <= at_us) & (end[rows] == FOREVER)]
        if len(now):
            given = (a[now] for a in (code, batch.event, batch.known, number))
            grouped.add(grouped.Rows(plan, batch.columns.take(pa.array(now)), *given), made, at_us)
        later = rows[(visible[rows] > at_us) | (end[rows] != FOREVER)]
        values = decode.values(plan, batch.columns.take(pa.array(later)))
        columns = (a[later].tolist() for a in (code, batch.event, batch.known, number, visible, end))
        for i, event, known, n, seen, until, row in zip(*columns, values, strict=True):
            given_state = made[i]
            assert given_state is not None
            plan.add(given_state, (event, known, n, row), seen, until)
        done = [((plan.view.name, key_text(keys[i])), state) for i, state in enumerate(made) if state is not None]
        yield {text: pack(state) for text, state in done}, {text: plan.horizon(state) + REWIND_US for text, state in done}

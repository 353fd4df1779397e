"""All rows of a table into the states of all keys at once, without pushing them row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.definitions import Table
from tidemill.features.embedded import decode, grouped
from tidemill.features.embedded.decode import Batch
from tidemill.features.embedded.hashing import Bools
from tidemill.features.embedded.memory import REWIND_US
from tidemill.features.embedded.packed import one_row_states
from tidemill.features.embedded.plans import key_texts
from tidemill.features.embedded.source import Int64
from tidemill.features.embedded.tiles import FOREVER, State, ViewPlan, pack
from tidemill.features.ports import States
from tidemill.versioning.ports import Scan

KEYS = 100_000
"""States that are made, and written, together."""


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


def states(plan: ViewPlan, batch: Batch, number: Int64, end: Int64, at_us: int) -> Iterator[States]:
    """Packed states at `at_us`, some keys at a time, in the order of their texts."""
    code, texts = _coded(plan, batch)
    visible = np.maximum(batch.event, batch.known)
    counts = (code >= 0) & (end > visible) & (end > at_us) & (batch.event > at_us - plan.retention)
    now = counts & (visible <= at_us) & (end == FOREVER)
    later = counts & ~now
    slow = np.zeros(len(texts) + 1, dtype=bool)  # the last one stands for rows without a key, whose code is -1
    slow[code[later]] = True
    if plan.windows:
        slow[:-1] = True
    else:
        yield from _newest(plan, batch, number, code, texts, now & ~slow[code], at_us)
    yield from _all(plan, batch, (number, end, visible), code, texts.to_pylist(), slow, counts & slow[code], at_us)


def _coded(plan: ViewPlan, batch: Batch) -> tuple[Int64, pa.Array]:
    """A code for each row, -1 without a key; and the texts of the keys by code, which rise."""
    code, keys = decode.coded(plan, batch.columns)
    texts = key_texts(keys)
    order = pc.sort_indices(texts)
    rank = np.full(len(texts) + 1, -1)
    rank[order.to_numpy()] = np.arange(len(texts))
    return rank[code], texts.take(order)


def _newest(plan: ViewPlan, batch: Batch, number: Int64, code: Int64, texts: pa.Array, now: Bools, at_us: int) -> Iterator[States]:
    """States of keys that need their newest row only."""
    rows = np.flatnonzero(now & (batch.event >= at_us - plan.ttl))
    mine = code[rows]
    best = np.full(len(texts), np.iinfo(np.int64).min)
    np.maximum.at(best, mine, batch.event[rows])
    many = np.bincount(mine, minlength=len(texts)) > 1
    rows = rows[batch.event[rows] == best[mine]]
    rows = rows[np.lexsort((number[rows], batch.known[rows], code[rows]))]
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = code[rows][1:] != code[rows][:-1]
    rows = rows[last]
    for first in range(0, len(rows), KEYS):
        some = rows[first : first + KEYS]
        row = batch.event[some], batch.known[some], number[some]
        bodies = one_row_states(plan, batch.columns.take(pa.array(some)), row, many[code[some]] & (plan.kept > 1), at_us)
        yield States(texts.take(pa.array(code[some])).to_pylist(), bodies, (row[0] + plan.ttl + 1 + REWIND_US).tolist())


def _all(
    plan: ViewPlan,
    batch: Batch,
    numbers: tuple[Int64, Int64, Int64],
    code: Int64,
    texts: Sequence[str],
    wanted: Bools,
    counts: Bools,
    at_us: int,
) -> Iterator[States]:
    """States of the wanted keys, whatever they are made of."""
    number, end, visible = numbers
    place = np.flatnonzero(counts)
    place = place[np.argsort(code[place], kind="stable")]
    owned = np.flatnonzero(wanted)
    for first in range(0, len(owned), KEYS):
        some = owned[first : first + KEYS]
        low, high = np.searchsorted(code[place], [some[0], some[-1] + 1])
        rows = place[low:high]
        made: list[State | None] = [None] * len(texts)
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
        done = [(texts[i], state) for i, state in enumerate(made) if state is not None]
        yield States([text for text, _ in done], [pack(s) for _, s in done], [plan.horizon(s) + REWIND_US for _, s in done])

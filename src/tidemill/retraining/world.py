"""History as the world would have played it: rows of each table in the order in which they became known.

A replay reads the past from the project's sources (a project that is new) or from its published tables (one that is in use)
and hands it out tick by tick. Batches that the audit rejects are left out: the world's streams were right, an export was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.definitions import Service, Table
from tidemill.ingestion.ports import Source
from tidemill.retraining.loop import FOREVER_US
from tidemill.validation.ports import Audit
from tidemill.versioning.ports import Scan

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Track:
    """One table's rows by known time. `known_us` and `event_us` are aligned with `rows`."""

    rows: pa.Table
    known_us: Times
    event_us: Times

    def known_between(self, from_us: int, until_us: int) -> pa.Table:
        """Rows with from_us <= known time < until_us, as a daily file has them."""
        first, last = np.searchsorted(self.known_us, [from_us, until_us], side="left")
        return self.rows.slice(int(first), int(last - first))


@dataclass(frozen=True, slots=True)
class Requests:
    """What a service is asked over a while: one row of the spine each, in time order."""

    rows: tuple[Mapping[str, object], ...]
    ids: tuple[str, ...]
    at_us: tuple[int, ...]


World = Mapping[str, Track]


def track(table: Table, rows: pa.Table) -> Track:
    """Order rows by known time (stable, so ingestion order breaks ties)."""
    known = _us(rows, table.known_time)
    order = np.argsort(known, kind="stable")
    ordered = rows.take(pa.array(order)).combine_chunks()
    return Track(ordered, known[order], _us(ordered, table.event_time))


def from_sources(tables: Mapping[str, Table], sources: Mapping[str, Source], audit: Callable[[str, pa.Table], Audit]) -> dict[str, Track]:
    """Read every batch of every source, ahead of time; what the audit rejects is left out."""
    world = {}
    for name, source in sources.items():
        good = [batch.rows for batch in source.read(after=None, until_us=FOREVER_US) if audit(name, batch.rows).passed]
        if good:
            world[name] = track(tables[name], pa.concat_tables(good, promote_options="default"))
    return world


def from_tables(tables: Mapping[str, Table], scan: Callable[[str], Scan]) -> dict[str, Track]:
    """Read the published rows of every table."""
    world = {}
    for name, table in tables.items():
        found = scan(name)
        if found.paths:
            world[name] = track(table, ds.dataset(list(found.paths), schema=found.schema, format="parquet").to_table())
    return world


def requests(world: World, service: Service, from_us: int, until_us: int) -> Requests:
    """The spine rows that are due in [from_us, until_us), as each was known when it was due."""
    spine = world[service.spine.name]
    at = spine.event_us - service.lead_us
    due = np.flatnonzero((at >= from_us) & (at < until_us) & (spine.known_us <= at))
    ids = spine.rows.column(service.key).take(pa.array(due)).cast(pa.string()).to_pylist()
    newest = {key: int(row) for key, row in zip(ids, due, strict=True)}  # later known wins: rows are in known order
    chosen = sorted(newest.items(), key=lambda item: (int(at[item[1]]), item[0]))
    picked = pa.array([row for _, row in chosen], pa.int64())
    columns = [c for c in dict.fromkeys((*service.request_columns, service.key)) if c in spine.rows.column_names]
    rows = spine.rows.select(columns).take(picked).to_pylist()
    return Requests(tuple(rows), tuple(key for key, _ in chosen), tuple(int(at[row]) for _, row in chosen))


def _us(rows: pa.Table, column: str) -> Times:
    values = pc.cast(rows.column(column), pa.timestamp("us", tz="UTC")).cast(pa.int64())
    out: Times = values.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    return out

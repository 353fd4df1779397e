"""The statements of one label as columns in memory, and the one rule that says which of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64 = npt.NDArray[np.int64]
COLUMNS = ("label", "key", "value", "event_us", "known_us", "writer")


class LabelColumn:
    """Statements of one label in write order. A key is told by the row number of its first statement, so none is kept as an object."""

    def __init__(self) -> None:
        self.seen = 0
        self._key: pa.StringArray = pa.array([], pa.string())
        self._writers: dict[str, int] = {}
        self._first = self._event = self._known = np.empty(0, dtype=np.int64)
        self._writer: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._value: npt.NDArray[np.float64] = np.empty(0)
        self._ordered: dict[tuple[str, ...], Int64] = {}

    def extend(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take (seq, key, value, event_us, known_us, writer, seq of the key's first statement) rows, in write order."""
        seqs, keys, values, events, known, writers, first = zip(*rows, strict=True)
        self.seen = seqs[-1]
        who = np.fromiter((self._writers.setdefault(w, len(self._writers)) for w in writers), dtype=np.int32, count=len(keys))
        self._key = pa.concat_arrays([self._key, pa.array(keys, pa.string())])
        self._first = np.concatenate([self._first, np.array(first, dtype=np.int64)])
        self._writer = np.concatenate([self._writer, who])
        self._value = np.concatenate([self._value, np.array(values, dtype=np.float64)])
        self._event = np.concatenate([self._event, np.array(events, dtype=np.int64)])
        self._known = np.concatenate([self._known, np.array(known, dtype=np.int64)])
        self._ordered.clear()

    def as_of(self, at_us: int, from_event_us: int, writers: tuple[str, ...] = ()) -> pa.Table:
        """The statement of each key that counts; nulls are no label."""
        visible = self._order(writers)
        visible = visible[: int(np.searchsorted(self._known[visible], at_us, side="right"))]
        newest = np.full(int(self._first.max(initial=0)) + 1, -1, dtype=np.int64)
        newest[self._first[visible]] = visible  # of repeated positions the last assignment stays
        rows = newest[newest >= 0]
        rows = rows[(self._event[rows] >= from_event_us) & ~np.isnan(self._value[rows])]
        columns = [self._key.take(pa.array(rows)), self._value[rows], self._event[rows], self._known[rows]]
        return pa.table(columns, names=["key", "value", "event_us", "known_us"])

    def _order(self, writers: tuple[str, ...]) -> Int64:
        """Statements so that a later one beats those before it: by known time, then by writer, then as they were written."""
        found = self._ordered.get(writers)
        if found is None:
            place = {name: i for i, name in enumerate(writers)}
            rank = np.array([place.get(name, len(writers)) for name in self._writers], dtype=np.int64)
            if len(set(rank.tolist())) < 2:
                found = np.argsort(self._known, kind="stable")
            else:
                found = np.lexsort((np.arange(len(self._known)), -rank[self._writer], self._known))
            self._ordered[writers] = found
        return found

    def statements(self, label: str, at_us: int) -> pa.Table:
        """Every statement known by then."""
        rows = np.flatnonzero(self._known <= at_us)
        names, n = list(self._writers), len(rows)
        value = self._value[rows]
        columns = [
            pa.array([label] * n, pa.string()),
            self._key.take(pa.array(rows)),
            pa.array(value, pa.float64(), mask=np.isnan(value)),
            self._event[rows],
            self._known[rows],
            pa.array([names[w] for w in self._writer[rows].tolist()], pa.string()),
        ]
        return pa.table(columns, names=list(COLUMNS))

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
    """Statements of one label in write order; keys and writers are numbered by first appearance."""

    def __init__(self) -> None:
        self.seen = 0
        self._codes: dict[str, int] = {}
        self._keys: list[str] = []
        self._writers: dict[str, int] = {}
        self._code = self._event = self._known = self._writer = np.empty(0, dtype=np.int64)
        self._value: npt.NDArray[np.float64] = np.empty(0)
        self._ordered: dict[tuple[str, ...], Int64] = {}

    def extend(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take (seq, key, value, event_us, known_us, writer) rows, in write order."""
        seqs, keys, values, events, known, writers = zip(*rows, strict=True)
        self.seen = seqs[-1]
        for key in keys:
            if key not in self._codes:
                self._codes[key] = len(self._keys)
                self._keys.append(key)
        codes = np.fromiter(map(self._codes.__getitem__, keys), dtype=np.int64, count=len(keys))
        who = np.fromiter((self._writers.setdefault(w, len(self._writers)) for w in writers), dtype=np.int64, count=len(keys))
        self._code = np.concatenate([self._code, codes])
        self._writer = np.concatenate([self._writer, who])
        self._value = np.concatenate([self._value, np.array(values, dtype=np.float64)])
        self._event = np.concatenate([self._event, np.array(events, dtype=np.int64)])
        self._known = np.concatenate([self._known, np.array(known, dtype=np.int64)])
        self._ordered.clear()

    def as_of(self, at_us: int, from_event_us: int, writers: tuple[str, ...] = ()) -> pa.Table:
        """The statement of each key that counts; nulls are no label."""
        visible = self._order(writers)
        visible = visible[: int(np.searchsorted(self._known[visible], at_us, side="right"))]
        newest = np.full(len(self._keys), -1, dtype=np.int64)
        newest[self._code[visible]] = visible  # of repeated positions the last assignment stays
        rows = newest[newest >= 0]
        rows = rows[(self._event[rows] >= from_event_us) & ~np.isnan(self._value[rows])]
        names = [self._keys[code] for code in self._code[rows].tolist()]
        columns = [pa.array(names, pa.string()), self._value[rows], self._event[rows], self._known[rows]]
        return pa.table(columns, names=["key", "value", "event_us", "known_us"])

    def _order(self, writers: tuple[str, ...]) -> Int64:
        """Statements so that a later one beats those before it: by known time, then by writer, then as they were written."""
        found = self._ordered.get(writers)
        if found is None:
            place = {name: i for i, name in enumerate(writers)}
            rank = np.array([place.get(name, len(writers)) for name in self._writers], dtype=np.int64)
            by_writer = -rank[self._writer] if len(rank) else self._writer
            found = self._ordered[writers] = np.lexsort((np.arange(len(self._known)), by_writer, self._known))
        return found

    def statements(self, label: str, at_us: int) -> pa.Table:
        """Every statement known by then."""
        rows = np.flatnonzero(self._known <= at_us)
        names, n = list(self._writers), len(rows)
        value = self._value[rows]
        columns = [
            pa.array([label] * n, pa.string()),
            pa.array([self._keys[c] for c in self._code[rows].tolist()], pa.string()),
            pa.array(value, pa.float64(), mask=np.isnan(value)),
            self._event[rows],
            self._known[rows],
            pa.array([names[w] for w in self._writer[rows].tolist()], pa.string()),
        ]
        return pa.table(columns, names=list(COLUMNS))

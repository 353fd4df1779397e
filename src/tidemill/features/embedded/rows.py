"""Remembered rows as columns: five words each (three to five in the store) and what the views read, in the order of ingestion."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.core.errors import InvalidError
from tidemill.features.embedded.decode import Batch, horizon
from tidemill.features.embedded.hashing import Bools, UInt64
from tidemill.features.embedded.source import Int64

_WORDS: dict[str, Any] = {"number": np.int64, "event": np.int64, "known": np.int64, "identity": np.uint64, "digest": np.uint64}
_FIRST = "first"
"""What a body's first number is called where the others follow from it."""
_FACTOR = 4


class RowStore:
    """Rows by position, their numbers rising. The first `bare` rows came in bulk and have no values here: they are in the table."""

    def __init__(self) -> None:
        self.length = self.bare = 0
        self._words: dict[str, npt.NDArray[Any]] = {name: np.empty(0, dtype=kind) for name, kind in _WORDS.items()}
        self._chunks: list[tuple[int, pa.Table]] = []

    @property
    def number(self) -> Int64:
        """Position in the order of ingestion."""
        return self._words["number"][: self.length]

    @property
    def event(self) -> Int64:
        """Event times; `FOREVER` for what never happens."""
        return self._words["event"][: self.length]

    @property
    def known(self) -> Int64:
        """Known times."""
        return self._words["known"][: self.length]

    @property
    def identity(self) -> UInt64:
        """Hashes of the table's keys."""
        return self._words["identity"][: self.length]

    @property
    def digest(self) -> UInt64:
        """Hashes of whole rows."""
        return self._words["digest"][: self.length]

    @property
    def horizon(self) -> Int64:
        """Until when each row can matter."""
        return horizon(self.event, self.known)

    def add(self, number: Int64, batch: Batch, *, bare: bool = False) -> None:
        """Add rows behind the others; `bare` ones without their values, and only before all others."""
        self._add({"number": number, "event": batch.event, "known": batch.known, "identity": batch.identity, "digest": batch.digest})
        if bare:
            self.bare = self.length
        else:
            self._add_values(self.length - len(number), batch.columns)

    def _add(self, words: dict[str, npt.NDArray[Any]]) -> None:
        length = self.length + len(words["number"])
        if not self.length:  # nothing to copy: who adds more makes room for it
            self._words, self.length = words, length
            return
        for name, kept in self._words.items():
            if length > len(kept):
                grown = np.empty(max(length, len(kept) * 5 // 4 + 64), dtype=kept.dtype)
                grown[: self.length] = kept[: self.length]
                kept = self._words[name] = grown
            kept[self.length : length] = words[name]
        self.length = length

    def _add_values(self, first: int, values: pa.Table) -> None:
        if self._chunks:
            values = self._fitting(values)
        self._chunks.append((first, values.combine_chunks()))
        while len(self._chunks) > 1 and self._chunks[-2][1].num_rows < _FACTOR * self._chunks[-1][1].num_rows:
            (_, last), (place, before) = self._chunks.pop(), self._chunks.pop()
            self._chunks.append((place, pa.concat_tables([before, last]).combine_chunks()))

    def _fitting(self, values: pa.Table) -> pa.Table:
        """The values in the types of those that are there; a column without any value yet takes the new type."""
        schema = self._chunks[0][1].schema
        unknown = [n for n, kind in zip(schema.names, schema.types, strict=True) if pa.types.is_null(kind)]
        if any(not pa.types.is_null(values.schema.field(n).type) for n in unknown):
            schema = pa.schema([values.schema.field(f.name) if f.name in unknown else f for f in schema])
            self._chunks = [(place, chunk.cast(schema)) for place, chunk in self._chunks]
        if values.schema.equals(schema):
            return values
        for field in schema:
            try:
                values.schema.field(field.name)
                values[field.name].cast(field.type)
            except pa.ArrowException as error:
                raise InvalidError(
                    f"column {field.name[2:]!r} was {field.type} so far and now is {values.schema.field(field.name).type}: {error}; "
                    f"cast the rows, or give the changed column another name"
                ) from error
        return values.select(schema.names).cast(schema)

    @property
    def schema(self) -> pa.Schema | None:
        """The types of the values; None as long as there are none."""
        return self._chunks[0][1].schema if self._chunks else None

    def places(self, numbers: Int64) -> Int64:
        """The positions of rows that are there."""
        return np.searchsorted(self.number, numbers)

    def all_values(self) -> pa.Table:
        """The values of all rows but the bare ones."""
        return pa.concat_tables([chunk for _, chunk in self._chunks])

    def values(self, places: Int64) -> pa.Table:
        """The values of some rows (none of them bare), in the given order."""
        starts = np.array([first for first, _ in self._chunks])
        chunk = np.searchsorted(starts, places, side="right") - 1
        order = np.argsort(chunk, kind="stable")
        parts = [self._chunks[c][1].take(pa.array(places[order][chunk[order] == c] - starts[c])) for c in np.unique(chunk)]
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))

    def keep(self, wanted: Bools) -> None:
        """Drop all rows but the wanted ones."""
        values = self.all_values().filter(pa.array(wanted[self.bare :])) if self._chunks else None
        kept = {name: words[: self.length][wanted] for name, words in self._words.items()}
        self._words, self.bare = kept, int(wanted[: self.bare].sum())
        self.length = len(kept["number"])
        self._chunks = [(self.bare, values.combine_chunks())] if values is not None and values.num_rows else []

    def dump(self, places: Int64) -> bytes:
        """Bytes of some rows (at least one), all bare or none. Numbers without a gap, and known times that are the event times, are not written out."""
        made = {name: words[: self.length][places] for name, words in self._words.items()}
        first, facts = int(made["number"][0]), dict[str, str]()
        if int(made["number"][-1]) - first == len(places) - 1:
            del made["number"]
            facts[_FIRST] = str(first)
        if np.array_equal(made["known"], made["event"]):
            del made["known"]
        table = pa.table(made, metadata=facts)
        if places[0] >= self.bare:
            for name, column in zip(*_columns(self.values(places)), strict=True):
                table = table.append_column(name, column)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return sink.getvalue()

    def restore(self, body: bytes) -> None:
        """Add the rows that `dump` wrote."""
        table = pa.ipc.open_stream(body).read_all()
        words = {name: np.asarray(table[name].to_numpy(), dtype=kind) for name, kind in _WORDS.items() if name in table.column_names}
        words.setdefault("known", words["event"])
        if "number" not in words:
            words["number"] = int(table.schema.metadata[_FIRST.encode()]) + np.arange(table.num_rows)
        self._add(words)
        names = [n for n in table.column_names if n not in _WORDS]
        if names:
            self._add_values(self.length - table.num_rows, table.select(names))
        else:
            self.bare = self.length


def _columns(table: pa.Table) -> tuple[list[str], list[pa.ChunkedArray]]:
    return table.column_names, table.columns

"""The rows of a table piece by piece, each as it was known at its own time, without holding all of them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.training.rows import AT
from tidemill.training.source import column_times, column_us, key_codes, known_at_own_time, with_column
from tidemill.versioning.ports import Scan


class SpinePieces:
    """A spine table's rows that count, in the order of ingestion, in pieces of equal size. What is in memory of the others is four numbers each.

    The same rows as those of `FrameSource.derive`: known by their own time, not replaced by then, each `service.key` once.
    """

    def __init__(self, service: Service, scan: Scan, *, from_us: int | None, until_us: int, rows: int) -> None:
        """Decide which rows count.

        Args:
            service: names spine table, key and lead.
            scan: where the rows of the spine table are.
            from_us: no row of an earlier time.
            until_us: no row of a later time.
            rows: of one piece.

        Raises:
            InvalidError: no row counts, or a column is missing.
        """
        self._service, self._rows = service, rows
        if not scan.paths:
            raise InvalidError(f"table {scan.table!r} is empty; ingest it first")
        self._dataset = ds.dataset([p.removeprefix("file://") for p in scan.paths], schema=scan.schema, format="parquet")
        self._keep = self._kept(from_us, until_us)
        self.total = int(self._keep.sum())
        """How many rows count."""
        if not self.total:
            raise InvalidError(f"table {scan.table!r} has no row at such times; choose others, or ingest more")

    def _kept(self, from_us: int | None, until_us: int) -> npt.NDArray[np.bool_]:
        service, table = self._service, self._service.spine
        columns = dict.fromkeys(c for c in (table.event_time, table.known_time, service.key, *table.keys) if c)
        if missing := [c for c in columns if c not in self._dataset.schema.names]:
            raise InvalidError(f"table {table.name!r} lacks {', '.join(missing)}")
        rows = self._dataset.to_table(columns=list(columns))
        times = column_times(rows, table.event_time, table.name) - service.lead_us
        keep = known_at_own_time(key_codes(rows, table.keys), column_us(rows, table.known_time), times) & (times <= until_us)
        places = np.flatnonzero(keep)
        ids = key_codes(rows, (service.key,))[places]
        order = places[np.lexsort((places, times[places]))]
        _, first = np.unique(ids[np.lexsort((places, times[places]))], return_index=True)
        once = np.zeros(len(keep), dtype=bool)
        once[order[first]] = True
        return once if from_us is None else once & (times >= from_us)

    def __len__(self) -> int:
        return -(-self.total // self._rows)

    def __iter__(self) -> Iterator[pa.Table]:
        return pieces(self._counted(), self._rows)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """One row group after the other: a scan of a whole file, or of several, reads ahead of who is slower than it, up to all there is."""
        schema = self._dataset.schema
        for file in self._dataset.get_fragments():
            for group in file.split_by_row_group():
                yield from group.to_batches(schema=schema, batch_size=1 << 16)

    def _counted(self) -> Iterator[pa.Table]:
        start = 0
        for batch in self._batches():
            keep = self._keep[start : start + batch.num_rows]
            start += batch.num_rows
            rows = pa.Table.from_batches([batch.filter(pa.array(keep))])
            if rows.num_rows:
                times = column_times(rows, self._service.spine.event_time, self._service.spine.name) - self._service.lead_us
                at = pa.array(times).cast(pa.timestamp("us", "UTC"))
                yield with_column(with_column(rows, AT, at), "id", rows.column(self._service.key).cast(pa.string()))


def pieces(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` at a time."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= rows:
            joined = _joined(held)
            yield joined.slice(0, rows)
            held, count = [joined.slice(rows)], count - rows
    if count:
        yield _joined(held)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).combine_chunks()

"""What a table's rows are to a feature: the interval in which each counts, and the fields that it gives.

A row is active in `[visible, end)`: visible is the later of its two clocks, end is when the next revision of
its table key becomes known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.features.embedded.fields import plain_times
from tidemill.features.fields import Field, quote
from tidemill.versioning.ports import Scan

FILES = "read_parquet(?, union_by_name = true)"
"""The files of a scan, as SQL; one parameter, their list."""
ORDER = "file_index::BIGINT * 1099511627776 + file_row_number"
"""The place of a row in the order of ingestion, as SQL over files."""
FOREVER = np.iinfo(np.int64).max
"""The end of a row that nothing supersedes."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table, no order implied; `order` is the order of ingestion. All times in microseconds."""

    event: Int64
    known: Int64
    visible: Int64
    end: Int64
    order: Int64
    columns: pa.Table
    names: Mapping[Field | str, str]

    def numbers(self, field: Field) -> Float64:
        """A field as numbers, NaN where a row gives none."""
        return np.asarray(self.columns[self.names[field]].to_numpy(), dtype=np.float64)

    def values(self, field: Field) -> pa.Array:
        """A field's values, of the column's type."""
        return self.columns[self.names[field]].combine_chunks()

    def holds(self, where: str) -> npt.NDArray[np.bool_]:
        """Which rows a condition holds for."""
        return np.asarray(self.columns[self.names[where]].to_numpy(zero_copy_only=False), dtype=bool)


def relation(scan: Scan, where: Mapping[str, str]) -> str:
    """The files, with a boolean column for each condition; a condition sees times as plain UTC, everything else as they are."""
    if not where:
        return FILES
    times = [f.name for f in scan.schema if pa.types.is_timestamp(f.type)]
    both = ", ".join(f"{quote(n)} AS {quote('_as_is_' + n)}" for n in times)
    place = "file_index, file_row_number" + (f", {both}" if both else "")
    held = ", ".join(f"coalesce(({text})::BOOLEAN, false) AS {name}" for text, name in where.items())
    own = ", ".join(f"{quote('_as_is_' + n)} AS {quote(n)}" if n in times else quote(n) for n in scan.schema.names)
    names = ", ".join(where.values())
    return f"""(SELECT {own}, file_index, file_row_number, {names}
                FROM (SELECT *, {held} FROM (SELECT {plain_times(scan.schema)}, {place} FROM {FILES})))"""

"""Training sets as matrices, and their division in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.training.ports import Matrix, TrainingSet

LABEL = "label"
AT = "at"


def encode(rows: TrainingSet) -> tuple[Matrix, npt.NDArray[np.float64]]:
    """Inputs and labels as the model sees them.

    Returns:
        X: (n, features) float64 in `features` order; texts by category code (unknown or null: -1), nulls NaN.
        y: (n,) float64.
    """
    return encode_columns(rows.table, rows.features, rows.categories), rows.table.column(LABEL).to_numpy().astype(np.float64)


def encode_columns(table: pa.Table, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> Matrix:
    """Columns of a table as a model sees them: (n, features) float64; see `encode`."""
    x = np.empty((table.num_rows, len(features)), dtype=np.float64)
    for i, name in enumerate(features):
        x[:, i] = _column(table.column(name), name, categories)
    return x


def _column(column: pa.ChunkedArray, name: str, categories: Mapping[str, Sequence[str]]) -> npt.NDArray[np.float64]:
    if name in categories:
        codes = pc.index_in(column.cast(pa.string()), value_set=pa.array(list(categories[name]), pa.string()))
        return np.asarray(pc.fill_null(codes, -1).to_numpy(), dtype=np.float64)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InvalidError(
            f"column {name!r} is {kind}, which no model input can be; make it a number or a text, for example by an on-demand feature"
        )
    doubles = column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(kind) else column.cast(pa.float64(), safe=False)
    return np.asarray(pc.fill_null(doubles, float("nan")).to_numpy(), dtype=np.float64)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is coded by categories."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind))


def vocabulary(table: pa.Table, features: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The distinct values of each text column, sorted: the categories of a training set."""
    out: dict[str, tuple[str, ...]] = {}
    for name in features:
        column = table.column(name)
        if is_text(column.type):
            out[name] = tuple(sorted(v for v in pc.unique(column.cast(pa.string())).to_pylist() if v is not None))
    return out


def times_us(rows: TrainingSet) -> npt.NDArray[np.int64]:
    """`at` of each row, microseconds."""
    return np.asarray(rows.table.column(AT).cast(pa.int64()).to_numpy(), dtype=np.int64)


def split_at(rows: TrainingSet, cut_us: int) -> tuple[TrainingSet, TrainingSet]:
    """Rows before `cut_us` and from it on; both get the categories of the former alone. Raises `InvalidError` when one is empty."""
    at = times_us(rows)
    n = int(np.searchsorted(at, cut_us, side="left"))
    if n == 0 or n == len(rows):
        span = f"{format_instant(int(at[0]))} to {format_instant(int(at[-1]))}" if len(rows) else "nothing"
        raise InvalidError(f"cutting at {format_instant(cut_us)} leaves one part empty: the rows cover {span}; choose another length")
    before, after = rows.table.slice(0, n), rows.table.slice(n)
    categories = vocabulary(before, rows.features)
    return (
        replace(rows, table=before, categories=categories, holdout_us=cut_us),
        replace(rows, table=after, categories=categories, holdout_us=cut_us),
    )


def last_days(rows: TrainingSet, share: float) -> int:
    """The instant at which the last `share` of the days that the rows cover begins; whole days where there are at least five."""
    at = times_us(rows)
    if not len(rows):
        raise InvalidError("there are no rows to split")
    first, last = int(at[0]), int(at[-1])
    cut = last - int((last - first) * share)
    return cut // DAY_US * DAY_US if last - first >= 5 * DAY_US else cut

"""Whether an answer is right: compared with the truth row by row, at size. A wrong answer is not a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from kit import WrongError

from feature_store.data import FEATURES
from feature_store.floors import Float64


def numbers(column: pa.ChunkedArray | pa.Array) -> Float64:
    """A column of numbers, NaN where it is null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def unlike(one: Float64, other: Float64, rtol: float = 1e-9) -> int:
    """Values that differ by more than `rtol` relative; NaN is like NaN."""
    return int((~(np.isclose(one, other, rtol=rtol, atol=0) | (np.isnan(one) & np.isnan(other)))).sum())


def differences(got: pa.Table, names: Mapping[str, str], truth: pa.Table) -> int:
    """Cells of `got` that differ from `truth`; `names`: column of the truth by column of `got`."""
    return sum(unlike(numbers(got[mine]), numbers(truth[theirs])) for mine, theirs in names.items())


def training_set(got: pa.Table, names: Mapping[str, str], truth: pa.Table, created: Mapping[str, Any], at: Any) -> dict[str, int]:
    """Rows kept, cells unlike the two-clock truth, and values that nobody knew yet at their row's time (by the row numbers)."""
    future = 0
    for view, known in created.items():
        row = numbers(got[next(mine for mine, theirs in names.items() if theirs == f"{view}0")])
        picked = np.flatnonzero(~np.isnan(row))
        future += int((known[row[picked].astype(np.int64)] > at[picked]).sum())
    return {"rows": got.num_rows, "differences": differences(got, names, truth), "future": future}


def same_windows(counts: Sequence[Any], means: Sequence[Any], truth: pa.Table) -> None:
    """Raise unless counts are those of the truth, and means to 1e-9. Arrays in the order of the truth's rows."""
    for i, (n, mean) in enumerate(zip(counts, means, strict=True)):
        wrong = int((n != numbers(pc.fill_null(truth[f"n{i}"], 0))).sum()) + unlike(mean, numbers(truth[f"m{i}"]))
        if wrong:
            raise WrongError(f"{wrong} of {2 * len(n)} values of window {i} differ from the range join")


FLOOR_NAMES = {name: name for name in FEATURES}
OUR_NAMES = {f"{name[0]}__{name}": name for name in FEATURES}

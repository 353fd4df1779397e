"""Calling the functions of Feast's on-demand feature views as Feast calls them; an imported project's `definitions.py` uses these."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError

Array = npt.NDArray[Any]


def whole(values: Array) -> Array:
    """Whole numbers as Feast hands them to a function: int, and None for null."""
    return np.array([None if v != v else int(v) for v in values.tolist()], dtype=object)


def truth(values: Array) -> Array:
    """Truth values as Feast hands them to a function: bool, and None for null."""
    return np.array([None if v != v else bool(v) for v in values.tolist()], dtype=object)


def run_pandas(function: Callable[..., Any], output: str, /, **columns: Array) -> Array:
    """One column of what a function of mode `pandas` makes of a data frame; the frame has `view__feature` and `feature`."""
    try:
        pandas = import_module("pandas")
    except ModuleNotFoundError as error:
        raise InvalidError(f"{function.__name__} works on pandas' data frames, which are not installed here: pip install pandas") from error
    frame = function(pandas.DataFrame(_listed(columns)))
    return _column(function, output, frame, lambda: frame[output].tolist(), _length(columns))


def run_python(function: Callable[..., Any], output: str, /, **columns: Array) -> Array:
    """One column of what a function of mode `python` makes of a dict of lists."""
    made = function(_listed(columns))
    return _column(function, output, made, lambda: list(made[output]), _length(columns))


def run_singleton(function: Callable[..., Any], output: str, /, **columns: Array) -> Array:
    """One column of what a function of mode `python` with `singleton=True` makes of one row after the other."""
    listed = _listed(columns)
    rows = [function({name: values[i] for name, values in listed.items()}) for i in range(_length(columns))]
    return _column(function, output, rows[0] if rows else {output: None}, lambda: [row[output] for row in rows], len(rows))


def _length(columns: dict[str, Array]) -> int:
    return len(next(iter(columns.values())))


def _listed(columns: dict[str, Array]) -> dict[str, list[Any]]:
    listed = {name: [None if isinstance(v, float) and v != v else v for v in values.tolist()] for name, values in columns.items()}
    short = {name.partition("__")[2]: values for name, values in listed.items() if "__" in name}
    return {**short, **listed}


def _column(function: Callable[..., Any], output: str, made: Any, take: Callable[[], list[Any]], rows: int) -> Array:
    if output not in made:
        raise InvalidError(f"{function.__name__} did not return {output!r}; it returned {', '.join(map(str, made))}")
    values = take()
    if len(values) != rows:
        raise InvalidError(f"{function.__name__} returned {len(values)} values of {output!r} for {rows} rows")
    plain = [None if isinstance(v, float) and v != v else v for v in values]
    if all(v is None or isinstance(v, float) for v in plain):
        return np.array([np.nan if v is None else v for v in plain], dtype=np.float64)
    return np.array(plain, dtype=object if None in plain or any(isinstance(v, str) for v in plain) else None)

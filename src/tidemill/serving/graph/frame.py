"""Columns on their way through a graph: the service's own, as requests or a table brought them, and those that nodes have made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import InvalidError
from tidemill.serving.plan import as_array
from tidemill.serving.ports import LoadedModel, Matrix

Array = npt.NDArray[Any]
Places = npt.NDArray[np.intp]


class Base:
    """The service's columns of all rows, as tuples in the order of `names`, or as arrays; an array is made when it is first read.

    `texts`: columns that hold texts even where all are null.
    """

    def __init__(
        self, names: Sequence[str], size: int, *, rows: Sequence[Sequence[Any]] | None = None, arrays: Mapping[str, Array] | None = None,
        texts: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.place = {name: i for i, name in enumerate(names)}
        self.size = size
        self.rows = rows
        self._arrays = dict(arrays or {})
        self._texts = texts

    def array(self, name: str) -> Array:
        """A column of all rows. Raises `InvalidError` when it mixes kinds of values."""
        found = self._arrays.get(name)
        if found is None:
            i = self.place[name]
            found = as_array(name, [row[i] for row in self.rows or ()], text=name in self._texts)
            self._arrays[name] = found
        return found


class Frame:
    """Some of the rows, as a node sees them. `places` are those among all rows, None for all of them."""

    __slots__ = ("_base", "_made", "places", "size")

    def __init__(self, base: Base, made: Mapping[str, Array] | None = None, places: Places | None = None) -> None:
        self._base, self._made, self.places = base, made or {}, places
        self.size = base.size if places is None else len(places)

    def array(self, name: str) -> Array:
        """A column as functions read it: float64 with NaN, or texts as objects with None."""
        made = self._made.get(name)
        if made is not None:
            return made
        whole = self._base.array(name)
        return whole if self.places is None else whole[self.places]

    def scores(self, model: LoadedModel, direct: Callable[[Sequence[Any]], tuple[Any, ...]] | None) -> Matrix:
        """What a model says. `direct` takes its inputs from a row, where it reads no column that a node has made."""
        rows = self._base.rows
        if direct is None or rows is None:
            return model.score(self._matrix(model))
        chosen = rows if self.places is None else [rows[i] for i in self.places.tolist()]
        return model.predict([direct(row) for row in chosen])

    def _matrix(self, model: LoadedModel) -> Matrix:
        """The rows as a model sees them: texts as codes (unknown or null: -1), nulls NaN."""
        x = np.empty((self.size, len(model.features)), dtype=np.float64)
        for i, name in enumerate(model.features):
            values = self.array(name)
            if name in model.categories:
                codes = {text: float(code) for code, text in enumerate(model.categories[name])}
                x[:, i] = [codes.get(value, -1.0) for value in values.tolist()]
            elif values.dtype == object and any(value is not None for value in values):
                raise InvalidError(f"column {name!r} takes numbers, not texts")
            else:
                x[:, i] = values.astype(np.float64)
        return x

    def pick(self, places: Places) -> Frame:
        """Some of these rows, by their places among them."""
        whole = places if self.places is None else self.places[places]
        return Frame(self._base, {name: values[places] for name, values in self._made.items()}, whole)

    def more(self, names: Sequence[str], columns: Sequence[Array]) -> Frame:
        """These rows with further columns, or others in their stead."""
        return Frame(self._base, {**self._made, **dict(zip(names, columns, strict=True))}, self.places)


def column_of(name: str, value: Any, size: int) -> Array:
    """What a function returned, as a column. Raises `ValueError` when it is none."""
    values = np.asarray(value)
    if values.shape != (size,):
        raise ValueError(f"it returned shape {values.shape} for {size} rows; return one value a row")
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind in "OU":
        return as_array(name, [None if v is None or v != v else v for v in values.tolist()])
    raise ValueError(f"it returned {values.dtype}; return numbers, booleans or texts")

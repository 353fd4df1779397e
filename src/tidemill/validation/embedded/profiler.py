"""Profiling Arrow tables in one vectorised pass per column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidemill.core.errors import not_found
from tidemill.validation.embedded.profile import Column, Numbers, SketchProfile, load
from tidemill.validation.embedded.quantiles import Quantiles
from tidemill.validation.embedded.texts import Texts
from tidemill.validation.kinds import as_us, kind_of
from tidemill.validation.ports import Profile

_LONGEST = 200  # characters of a text that tell it from others


class SketchProfiler:
    """A `Profiler` on Arrow, NumPy and mergeable sketches; equal rows give equal bytes."""

    def profile(self, rows: pa.Table, columns: Sequence[str] | None = None) -> Profile:
        """Summarise `rows`; raises `NotFoundError` for a column they lack."""
        for name in columns or ():
            if name not in rows.column_names:
                raise not_found("column", name, rows.column_names)
        return SketchProfile(rows.num_rows, {name: _column(rows[name]) for name in columns or rows.column_names})

    def load(self, body: bytes) -> Profile:
        return load(body)


def _column(values: pa.ChunkedArray) -> Column:
    if pt.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = kind_of(values.type)
    if kind in ("number", "time"):
        return _numbers(values, kind == "time")
    nulls = values.null_count
    return Column(kind, len(values) - nulls, nulls, _texts(values.drop_null() if nulls else values))


def _numbers(values: pa.ChunkedArray, time: bool) -> Column:
    if time:
        values = as_us(values)
    elif pt.is_decimal(values.type) or pt.is_float16(values.type):
        values = values.cast(pa.float64())
    present = values.drop_null() if values.null_count else values
    floats = present.cast(pa.float64(), safe=False).to_numpy()
    if pt.is_floating(values.type) and not (finite := np.isfinite(floats)).all():
        nan = int(np.isnan(floats).sum())
        n, edges, floats = len(floats) - nan, floats[~np.isnan(floats)], floats[finite]
        low, high = (float(edges.min()), float(edges.max())) if n else (None, None)
    elif len(floats):
        n, ends = len(floats), pc.min_max(present).as_py()
        low, high = ends["min"], ends["max"]
    else:
        n, low, high = 0, None, None
    mean = float(floats.mean()) if len(floats) else 0.0
    m2 = float(np.square(floats - mean).sum()) if len(floats) else 0.0
    return Column("time" if time else "number", n, len(values) - n, Numbers(low, high, mean, m2, Quantiles.of(floats)))


def _texts(values: pa.ChunkedArray) -> Texts:
    if pt.is_boolean(values.type):
        yes = pc.sum(values).as_py() or 0
        counts = {"false": len(values) - yes, "true": yes}
        return Texts.of(*zip(*((k, n) for k, n in counts.items() if n), strict=True)) if len(values) else Texts({})
    if pt.is_string(values.type) or pt.is_large_string(values.type):
        found = pc.value_counts(values)
        values, counts_of = found.field("values"), found.field("counts").to_pylist()
        longest = pc.max(pc.utf8_length(values)).as_py() or 0
        if longest <= _LONGEST:
            return Texts.of(values.to_pylist(), counts_of)
        names = pc.utf8_slice_codeunits(values, 0, _LONGEST).to_pylist()
    else:
        names = [_spell(v) for v in values.to_pylist()]
        counts_of = [1] * len(names)
    merged: dict[str, int] = {}
    for name, n in zip(names, counts_of, strict=True):
        merged[name] = merged.get(name, 0) + n
    return Texts.of(merged, merged.values())


def _spell(value: object) -> str:
    return (value.hex() if isinstance(value, bytes) else str(value))[:_LONGEST]

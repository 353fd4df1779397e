"""On-demand features: one function for a batch, a request and a training set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import FeatureService, OnDemand, Service
from tidemill.core.errors import InvalidError

Columns = dict[str, npt.NDArray[Any]]


def apply_on_demand(service: Service | FeatureService, columns: Mapping[str, npt.NDArray[Any]]) -> Columns:
    """Compute a service's on-demand features, in their order, so that one may read those before it.

    A function sees one type for one kind of column however many rows there are and whether any is null: numbers and booleans as
    float64 with NaN for null, times as datetime64[us] with NaT, texts as objects with None. The arrays are read-only.

    Args:
        service: whose on-demand features.
        columns: the columns they read, arrays of one length.

    Returns:
        `columns` and the features by name, arrays of the same length.

    Raises:
        InvalidError: a column is missing, or a function fails or returns something else than one value a row.
    """
    made: Columns = dict(columns)
    for feature in service.on_demand:
        if missing := [name for name in feature.inputs if name not in made]:
            raise InvalidError(
                f"the on-demand feature {feature.name!r} reads {', '.join(missing)}, which is not there; there is {', '.join(made)}"
            )
        made[feature.name] = _call(feature, [_uniform(made[name]) for name in feature.inputs])
    return made


def _call(feature: OnDemand, inputs: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    try:
        result = np.asarray(feature(*inputs))
    except Exception as error:
        raise InvalidError(f"the on-demand feature {feature.name!r} failed: {type(error).__name__}: {error}") from error
    rows = len(inputs[0]) if inputs else len(result)
    if result.shape != (rows,):
        raise InvalidError(f"the on-demand feature {feature.name!r} returned shape {result.shape} for {rows} rows; return one value a row")
    return result


def _uniform(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")
    elif values.dtype.kind in "biuf":
        values = values.astype(np.float64)
    elif values.dtype.kind == "U":
        values = values.astype(object)
    view = values.view()
    view.flags.writeable = False
    return view


def arrays(table: pa.Table, names: Iterable[str]) -> Columns:
    """Columns of a table as on-demand features see them."""
    return {name: _array(table[name]) for name in names}


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind):
        micros = pc.cast(column, pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
        whole = pc.fill_null(micros, np.iinfo(np.int64).min).to_numpy()
        return np.asarray(whole).astype("datetime64[us]")
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return np.asarray(column.to_numpy(), dtype=object)


def append_on_demand(service: Service, table: pa.Table) -> pa.Table:
    """A table with the on-demand features appended; those that are there already are replaced. NaN becomes null."""
    made = {f.name for f in service.on_demand}
    needed = dict.fromkeys(name for f in service.on_demand for name in f.inputs if name not in made)
    if missing := [name for name in needed if name not in table.column_names]:
        raise InvalidError(f"the on-demand features of {service.name!r} read {', '.join(missing)}, which the rows lack")
    found = apply_on_demand(service, arrays(table, needed))
    for feature in service.on_demand:
        values = pa.array(found[feature.name], from_pandas=True)
        if feature.name in table.column_names:
            table = table.drop_columns([feature.name])
        table = table.append_column(feature.name, values)
    return table

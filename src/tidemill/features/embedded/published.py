"""Finding rows of a published table again by some of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.versioning.ports import Scan

Lookup = Callable[[Table, Mapping[str, Sequence[Any]]], pa.Table]
"""Whole rows of a table whose columns have one of the given values each (superfluous ones too)."""


def lookup_in(scan: Callable[[str], Scan]) -> Lookup:
    """A `Lookup` in published tables. `scan` says where the rows of a table are, by name."""

    def find(table: Table, wanted: Mapping[str, Sequence[Any]]) -> pa.Table:
        where = scan(table.name)
        if not where.paths:
            return where.schema.empty_table()
        condition = None
        for name, values in wanted.items():
            one = ds.field(name).isin(pa.array(values, where.schema.field(name).type))
            condition = one if condition is None else condition & one
        try:
            return ds.dataset([p.removeprefix("file://") for p in where.paths], schema=where.schema, format="parquet").to_table(
                filter=condition
            )
        except FileNotFoundError as error:
            raise InvalidError(
                f"rows of table {table.name!r} that came in bulk are no longer in its files ({error}); run `tidemill features materialize`"
            ) from error

    return find


def lookup_files(paths: Sequence[str]) -> Lookup:
    """A `Lookup` in files as they were when a table came in bulk."""

    def scan(name: str) -> Scan:
        try:
            return Scan(name, 0, ds.dataset([p.removeprefix("file://") for p in paths], format="parquet").schema, tuple(paths))
        except FileNotFoundError as error:
            raise InvalidError(
                f"rows of table {name!r} that came in bulk are no longer in its files ({error}); run `tidemill features materialize`"
            ) from error

    return lookup_in(scan)

"""Rows of a file that no table has taken in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tidemill.core.definitions import Table
from tidemill.ingestion.embedded.readers import read_rows


def rows_of(file: Path, table: Table) -> pa.Table:
    """Read a Parquet, CSV or JSON file as ingestion would read a batch of `table`. Raises `InvalidError` when it cannot be read."""
    return read_rows(file.name, file.read_bytes(), table)

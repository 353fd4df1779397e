"""The rows of a batch that failed its audit: still on their branch, in Parquet, never in main."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from tidemill.api.needs import Needs
from tidemill.api.queries.rows import Record
from tidemill.core.errors import NotFoundError


def rejected_rows(platform: Needs, batch: Record, *, limit: int = 50) -> tuple[list[str], list[Record]]:
    """Column names and the first rows that `batch` brought. Raises `NotFoundError` where its branch is gone or it was published."""
    if batch["status"] != "rejected" or not batch["branch"]:
        raise NotFoundError(f"batch {batch['id']} was {batch['status']}; its rows are in the table {batch['table_name']!r}")
    branch, main = platform.tables.scan(batch["table_name"], batch["branch"]), platform.tables.scan(batch["table_name"])
    paths = [path for path in branch.paths if path not in set(main.paths)] or list(branch.paths)
    if not paths:
        return list(branch.schema.names), []
    rows: pa.Table = ds.dataset([path.removeprefix("file://") for path in paths], format="parquet").head(limit)
    return rows.column_names, [{k: _plain(v) for k, v in row.items()} for row in rows.to_pylist()]


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value

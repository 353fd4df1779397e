"""Where rejected rows go: one table beside each table, which any engine can query.

`<table>__rejected` has a column `_batch` and grows by the columns of what was rejected. A column that comes back with another
type is kept beside the first one, as `name__type`; the ledger's decision remembers which is which.
"""

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.errors import NotFoundError
from tidemill.ingestion.conform import small
from tidemill.versioning.ports import TableStore

BATCH = "_batch"


def quarantine_name(table: str) -> str:
    """The name of the table that holds what was rejected from `table`."""
    return f"{table}__rejected"


def keep(table: str, batch_id: str, rows: pa.Table, tables: TableStore) -> list[tuple[str, str]]:
    """Store rejected rows (again is a no-op); return each column's name and its stored name."""
    name = quarantine_name(table)
    schema = _schema(tables, name)
    names = [(field.name, _stored(field.name, field.type, schema)) for field in rows.schema]
    stored = rows.rename_columns([stored for _, stored in names]).add_column(0, BATCH, pa.array([batch_id] * rows.num_rows, pa.string()))
    if missing := [field for field in stored.schema if field.name not in schema.names]:
        tables.create(name, pa.schema([*schema, *missing]))
        schema = _schema(tables, name)
    filled = {
        field.name: stored[field.name].cast(field.type) if field.name in stored.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    }
    tables.append(name, pa.table(filled), batch=batch_id, branch="main")
    return names


def find(table: str, batch_id: str, names: Sequence[tuple[str, str]], tables: TableStore) -> pa.Table:
    """The rejected rows of a batch, their columns named and ordered as they came."""
    scan = tables.scan(quarantine_name(table))
    dataset = ds.dataset(list(scan.paths), schema=small(scan.schema), format="parquet")
    rows = dataset.to_table(columns=[stored for _, stored in names], filter=pc.field(BATCH) == batch_id)
    return rows.rename_columns([name for name, _ in names])


def _schema(tables: TableStore, name: str) -> pa.Schema:
    try:
        return small(tables.scan(name).schema)
    except NotFoundError:
        return pa.schema([])


def _stored(column: str, dtype: pa.DataType, schema: pa.Schema) -> str:
    if column not in schema.names or schema.field(column).type == dtype:
        return column
    return f"{column}__{re.sub(r'[^a-z0-9]+', '_', str(dtype).lower()).strip('_')}"

"""Where a table's rows are, as statements that make them readable under the table's name, with their order of ingestion."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as types
from sqlglot import exp

from tidemill.core.errors import InvalidError
from tidemill.features.fields import quote
from tidemill.features.sql.engines import Engine, render, text
from tidemill.versioning.ports import Scan

ROWS_PER_FILE = 2**40
"""`_order` is the file's place in the scan times this, plus the row's place in the file."""
_ROW = "_tmp_metadata_row_index"
"""What Spark's Parquet readers call a row's place in its file; a temporary view does not show it as `_metadata.row_index`."""

_PLAIN: list[tuple[Callable[[pa.DataType], bool], str]] = [
    (types.is_boolean, "BOOLEAN"),
    (types.is_int8, "TINYINT"),
    (types.is_int16, "SMALLINT"),
    (types.is_int32, "INT"),
    (types.is_int64, "BIGINT"),
    (types.is_float32, "FLOAT"),
    (types.is_float64, "DOUBLE"),
    (types.is_string, "TEXT"),
    (types.is_large_string, "TEXT"),
    (types.is_binary, "BLOB"),
    (types.is_large_binary, "BLOB"),
    (types.is_date32, "DATE"),
]


def compile_source(scan: Scan, engine: Engine) -> list[str]:
    """Statements after which a query can read the scan's rows as a relation of the table's name, with `_order`.

    Raises:
        InvalidError: a column whose type the engine does not have.
    """
    if not scan.paths:
        columns = ", ".join(f"CAST(NULL AS {sql_type(f, scan.table)}) AS {quote(f.name)}" for f in scan.schema)
        return [_view(scan.table, f"SELECT {columns}, CAST(NULL AS BIGINT) AS _order WHERE FALSE", engine)]
    return _duckdb(scan) if engine == "duckdb" else _spark(scan)


def sql_type(column: pa.Field, table: str) -> str:
    """A column's type in the compiler's dialect. Raises `InvalidError` for one that Parquet readers of the engines do not share."""
    kind = column.type
    if types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    if types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if types.is_list(kind) or types.is_large_list(kind):
        return f"{sql_type(pa.field(column.name, kind.value_type), table)}[]"
    if types.is_struct(kind):
        return f"STRUCT({', '.join(f'{quote(f.name)} {sql_type(f, table)}' for f in kind)})"
    if types.is_map(kind):
        return f"MAP({sql_type(pa.field('key', kind.key_type), table)}, {sql_type(pa.field('value', kind.item_type), table)})"
    for is_kind, name in _PLAIN:
        if is_kind(kind):
            return name
    raise InvalidError(
        f"column {column.name!r} of table {table!r} is {kind}, which SQL engines do not share; leave it out or store it as text"
    )


def spark_schema(scan: Scan) -> str:
    """The scan's columns as Spark's DDL, so that one that is younger than a file reads as null."""
    return ", ".join(f"{_spark_name(f.name)} {_spark_type(f, scan.table)}" for f in scan.schema)


def spark_glob(path: str) -> str:
    """A path as Hadoop's globs have to spell it to mean just that file."""
    return re.sub(r"([\\{}\[\]*?,])", r"\\\1", path)


def spark_order(scan: Scan, files: str) -> str:
    """The query that adds `_order` to the relation `files`, which has the scan's rows with `_file` (a URI) and `_row` (the row's place in its file).

    A file that is not of the scan, or rows without a place, end it with an error.
    """
    names = ", ".join(f"({text(path)}, {number})" for number, path in enumerate(scan.paths))
    path = "REGEXP_REPLACE(URL_DECODE(REPLACE(_file, '+', '%2B')), '^file:/+', '/')"
    lost = "CAST(RAISE_ERROR(CONCAT('no file of this scan, or a row without a place: ', _file)) AS BIGINT)"
    columns = ", ".join(quote(c) for c in scan.schema.names)
    query = (
        f"SELECT {columns}, COALESCE(n._number * CAST({ROWS_PER_FILE} AS BIGINT) + _row, {lost}) AS _order "
        f"FROM {quote(files)} LEFT JOIN (VALUES {names}) AS n(_path, _number) ON n._path = {path}"
    )
    return render(query, "spark")


def _view(name: str, query: str, engine: Engine) -> str:
    return f"CREATE OR REPLACE TEMPORARY VIEW {render(f'SELECT {quote(name)}', engine).removeprefix('SELECT').strip()} AS\n{render(query, engine)}"


def _duckdb(scan: Scan) -> list[str]:
    columns = ", ".join(quote(c) for c in scan.schema.names)
    paths = ", ".join(text(p) for p in scan.paths)
    order = f"CAST(file_index AS BIGINT) * {ROWS_PER_FILE} + file_row_number AS _order"
    return [_view(scan.table, f"SELECT {columns}, {order} FROM READ_PARQUET([{paths}], union_by_name = TRUE)", "duckdb")]


def _spark(scan: Scan) -> list[str]:
    files = f"{scan.table}_files"
    folder = os.path.commonpath([os.path.dirname(p) for p in scan.paths])  # noqa: PTH120 - texts, which Hadoop reads
    inside = [spark_glob(os.path.relpath(p, folder)) for p in scan.paths]
    path = f"{spark_glob(folder)}/{inside[0] if len(inside) == 1 else '{' + ','.join(inside) + '}'}"
    literal = exp.Literal.string(path).sql(dialect="spark")
    made = f"CREATE OR REPLACE TEMPORARY VIEW {_spark_name(files)} ({spark_schema(scan)}, {_ROW} BIGINT)\nUSING parquet OPTIONS (path {literal})"
    placed = f"CREATE OR REPLACE TEMPORARY VIEW {_spark_name(f'{files}_rows')} AS\nSELECT *, INPUT_FILE_NAME() AS _file, {_ROW} AS _row FROM {_spark_name(files)}"
    return [made, placed, f"CREATE OR REPLACE TEMPORARY VIEW {_spark_name(scan.table)} AS\n{spark_order(scan, f'{files}_rows')}"]


def _spark_name(name: str) -> str:
    return exp.to_identifier(name, quoted=True).sql(dialect="spark")


def _spark_type(column: pa.Field, table: str) -> str:
    return exp.DataType.build(sql_type(column, table), dialect="duckdb").sql(dialect="spark")

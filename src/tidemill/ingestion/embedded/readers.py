"""Reading one file of rows: Parquet, CSV or JSON."""

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError
from tidemill.ingestion.conform import storable


def read_rows(name: str, data: bytes, table: Table) -> pa.Table:
    """The rows of a file called `name` with the content `data`, in types that a table can hold.

    CSV: types are inferred; empty fields and NA are nulls; times are ISO 8601, in UTC where they have no zone. JSON: one object per
    line, or one list of objects; a key that an object lacks is null there. Raises `InvalidError` saying what is wrong with the file.
    """
    try:
        rows = READERS[suffix(name)](data)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise InvalidError(f"cannot be read as {suffix(name)[1:].upper()}: {exc}") from exc
    if twice := sorted({column for column in rows.column_names if rows.column_names.count(column) > 1}):
        raise InvalidError(f"has the column {twice[0]!r} twice")
    return storable(rows, table)


def suffix(name: str) -> str:
    """The file name's ending, as `READERS` knows it: `.csv`."""
    return name[name.rfind(".") :].lower() if "." in name else ""


def _parquet(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def _csv(data: bytes) -> pa.Table:
    nulls = pyarrow.csv.ConvertOptions(
        null_values=["", "NA", "NULL", "null", "NaN"], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=nulls)


def _json(data: bytes) -> pa.Table:
    if not data.strip():
        raise InvalidError("has no rows, so its columns cannot be known; leave the file out")
    if data.lstrip()[:1] == b"[":
        data = b"\n".join(json.dumps(row).encode() for row in json.loads(data))
    return pyarrow.json.read_json(io.BytesIO(data), read_options=pyarrow.json.ReadOptions(block_size=max(len(data), 1 << 20)))


READERS: dict[str, Callable[[bytes], pa.Table]] = {".parquet": _parquet, ".csv": _csv, ".json": _json, ".jsonl": _json, ".ndjson": _json}
"""What reads a file, by its ending."""

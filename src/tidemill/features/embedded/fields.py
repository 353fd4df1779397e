"""Fields of rows as DuckDB computes them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from tidemill.core.definitions import Table
from tidemill.features.fields import quote, refused


def plain_times(schema: pa.Schema) -> str:
    """`* REPLACE (…)` that makes times with a zone plain UTC, which conditions compare and subtract without an extension of DuckDB."""
    times = [f.name for f in schema if pa.types.is_timestamp(f.type)]
    made = ", ".join(f"make_timestamp(epoch_us({quote(n)})) AS {quote(n)}" for n in times)
    return f"* REPLACE ({made})" if made else "*"


_LOCAL = threading.local()


def masks(table: Table, wanted: Sequence[str], rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """For rows that are not in files: which of them each condition holds for. Raises `InvalidError` naming the conditions."""
    if not wanted:
        return {}
    if not hasattr(_LOCAL, "db"):
        _LOCAL.db = duckdb.connect(config={"threads": 1})
    picked = ", ".join(f"coalesce(({where})::BOOLEAN, false) AS w{i}" for i, where in enumerate(wanted))
    _LOCAL.db.register("given", rows)
    try:
        found = _LOCAL.db.sql(f"SELECT {picked} FROM (SELECT {plain_times(rows.schema)} FROM given)").to_arrow_table()
    except duckdb.Error as error:
        raise refused(table, wanted, error) from error
    finally:
        _LOCAL.db.unregister("given")
    return {where: found[f"w{i}"] for i, where in enumerate(wanted)}

"""The prediction log in two places: a fast file for what is new, an Iceberg table for all that is older, which any engine reads.

A row is archived in three steps, each of which may be the last before a kill: the log claims a batch, the table takes the batch (a batch that
it has taken before adds nothing), the log makes the batch's rows thin. What is read is the same at every point: a row that is whole
comes from the file, a thin one from the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core.errors import NotFoundError
from tidemill.serving.keeping import table_of
from tidemill.serving.ports import Prediction, PredictionLog, Visit
from tidemill.versioning.ports import TableStore

PIECE = 50_000
"""Rows of one batch."""
_INPUT = "in__"
_TEXT = "__text"
_FIXED = {
    "prediction": pa.string(),
    "model": pa.string(),
    "version": pa.int64(),
    "role": pa.string(),
    "at": pa.timestamp("us", tz="UTC"),
    "score": pa.float64(),
    "latency_us": pa.int64(),
    "degraded": pa.string(),
    "route": pa.string(),
    "columns": pa.string(),
    "request": pa.string(),
    "request_exact": pa.binary(),
}
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode
_routes = msgspec.json.Decoder(tuple[Visit, ...]).decode
Key = tuple[str, int, str]


def archive(log: PredictionLog, tables: TableStore, service: str, *, until_us: int, piece: int = PIECE, batches: int = 20) -> int:
    """Move predictions older than `until_us` into their table, so many batches at most; return how many rows."""
    moved = 0
    for _ in range(batches):
        batch, rows = log.claim(service, until_us=until_us, limit=piece)
        if not rows:
            break
        made = as_table(rows)
        tables.create(table_of(service), made.schema)
        tables.append(table_of(service), made, batch=batch, branch="main")
        log.thin(batch)
        moved += len(rows)
    return moved


def as_table(rows: Sequence[Prediction]) -> pa.Table:
    """Predictions as the archive has them: an input that is a number in column `in__NAME`, one that is a text in `in__NAME__text`."""
    encoded = [msgspec.json.encode(p.request).decode() for p in rows]
    exact = [None if _same(text, p.request) else _encode(p.request) for text, p in zip(encoded, rows, strict=True)]
    values: dict[str, list[Any]] = {
        "prediction": [p.id for p in rows],
        "model": [p.model for p in rows],
        "version": [p.version for p in rows],
        "role": [p.role for p in rows],
        "at": [p.at_us for p in rows],
        "score": [p.score for p in rows],
        "latency_us": [p.latency_us for p in rows],
        "degraded": [p.degraded for p in rows],
        "route": [msgspec.json.encode(p.route).decode() if p.route else None for p in rows],
        "columns": [msgspec.json.encode(p.columns).decode() for p in rows],
        "request": encoded,
        "request_exact": exact,
    }
    arrays = {
        name: pa.array(column, pa.int64()).cast(_FIXED[name]) if name == "at" else pa.array(column, _FIXED[name])
        for name, column in values.items()
    }
    for i, p in enumerate(rows):
        for name, value in zip(p.columns, p.values, strict=True):
            if value is not None:
                text = isinstance(value, str)
                column = values.setdefault(_INPUT + name + (_TEXT if text else ""), [None] * len(rows))
                column[i] = value if text else float(value)
    inputs = [name for name in values if name not in _FIXED]
    return pa.table(arrays | {name: pa.array(values[name], pa.string() if name.endswith(_TEXT) else pa.float64()) for name in inputs})


def _same(text: str, request: Mapping[str, Any]) -> bool:
    """Whether JSON carries a request without loss (times and infinities it does not)."""
    return bool(msgspec.json.decode(text) == dict(request)) and _encode(msgspec.json.decode(text)) == _encode(request)


def as_predictions(service: str, rows: pa.Table) -> Iterator[Prediction]:
    """Predictions of rows of the archive."""
    names: dict[str, tuple[str, ...]] = {}
    for row in rows.to_pylist():
        columns = names.setdefault(row["columns"], tuple(msgspec.json.decode(row["columns"])))
        exact = row["request_exact"]
        yield Prediction(
            row["prediction"],
            service,
            row["model"],
            row["version"],
            row["role"],
            row["at_us"],
            row["score"],
            columns,
            tuple([_value(row, name) for name in columns]),
            _decode(exact) if exact is not None else msgspec.json.decode(row["request"]),
            row["latency_us"],
            row["degraded"],
            _route(row.get("route")),
        )


def _route(text: str | None) -> tuple[Visit, ...]:
    """Rows that were archived before there were graphs have none."""
    return _routes(text) if text else ()


def _value(row: Mapping[str, Any], name: str) -> Any:
    number = row.get(_INPUT + name)
    return row.get(_INPUT + name + _TEXT) if number is None else number


def found_in(tables: TableStore, service: str, from_us: int, until_us: int, prediction_id: str | None = None) -> dict[Key, Prediction]:
    """Archived predictions with from_us <= at_us < until_us, by id, version and role; of one id when it is given."""
    try:
        scan = tables.scan(table_of(service))
    except NotFoundError:
        return {}
    if not scan.paths:
        return {}
    at = pc.field("at")
    wanted = (at >= pa.scalar(from_us, _FIXED["at"])) & (at < pa.scalar(until_us, _FIXED["at"]))
    if prediction_id is not None:
        wanted &= pc.field("prediction") == prediction_id
    data = ds.dataset(list(scan.paths), schema=scan.schema, format="parquet")
    columns = {n: pc.field(n) for n in scan.schema.names if n != "at"}
    rows = data.to_table(columns={**columns, "at_us": at.cast(pa.int64())}, filter=wanted)
    return {(p.id, p.version, p.role): p for p in as_predictions(service, rows)}

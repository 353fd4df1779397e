"""Tables, snapshots, batches with their anomalies, schemas, and rows pushed over HTTP."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from tidemill import ingestion
from tidemill.api.access import allow
from tidemill.api.queries import data
from tidemill.api.queries.rejected import rejected_rows
from tidemill.api.routes.shared import Limit, Offset, Platform
from tidemill.core.definitions import Table
from tidemill.core.errors import NotFoundError, not_found
from tidemill.ingestion.ports import Topic
from tidemill.ingestion.pushed import PUSHED
from tidemill.ledger.store import emit
from tidemill.serving.tokens import Access

router = APIRouter(tags=["data"])


def _table(platform: Platform, name: str) -> Table:
    if name not in platform.definitions.tables:
        raise not_found("table", name, platform.definitions.tables)
    return platform.definitions.tables[name]


@router.get("/tables")
def tables(platform: Platform) -> dict[str, Any]:
    """Each table with its counts and its last batch."""
    with platform.ledger.read() as db:
        items = data.tables(db, platform.definitions.tables)
    for item in items:
        definition = item.pop("definition")
        item["description"] = definition.description if definition else ""
    return {"items": items}


@router.get("/tables/{name}/snapshots")
def snapshots(platform: Platform, name: str, limit: Limit = 50) -> dict[str, Any]:
    """The newest kept snapshots of a table."""
    _table(platform, name)
    return {"items": [dataclasses.asdict(s) for s in platform.tables.snapshots(name)[:limit]]}


@router.get("/tables/{name}/schema")
def schema(platform: Platform, name: str) -> dict[str, Any]:
    """The curated schema that a table's batches are audited against."""
    _table(platform, name)
    found = platform.schemas.find(name)
    if found is None:
        raise NotFoundError(f"table {name!r} has no schema yet; `tidemill validate {name} --infer` writes one")
    return dataclasses.asdict(found)


@router.get("/batches")
def batches(platform: Platform, table: str = "", status: str = "", offset: Offset = 0, limit: Limit = 50) -> dict[str, Any]:
    """Batches, newest first; `status` is published or rejected."""
    with platform.ledger.read() as db:
        return data.batches(db, table=table, status=status, offset=offset, limit=limit).as_json()


@router.get("/batches/{batch_id}")
def batch(platform: Platform, batch_id: str) -> dict[str, Any]:
    """One batch with its anomalies."""
    with platform.ledger.read() as db:
        return data.batch(db, batch_id)


@router.get("/batches/{batch_id}/rows")
def rows(platform: Platform, batch_id: str, limit: Limit = 50) -> dict[str, Any]:
    """The first rows of a rejected batch, from the branch that was never published."""
    with platform.ledger.read() as db:
        found = data.batch(db, batch_id)
    columns, items = rejected_rows(platform, found, limit=limit)
    return {"columns": columns, "items": items}


Rows = Annotated[list[dict[str, Any]], Body(description="rows of the table; times as ISO 8601 or microseconds")]


@router.post("/tables/{name}/rows", status_code=202)
def push(platform: Platform, name: str, body: Rows, access: Annotated[Access, Depends(allow("ingest"))]) -> dict[str, Any]:
    """Append rows to the table's stream; they are durable when this answers, and counted when the loop has read them."""
    table = _table(platform, name)
    offset = ingestion.push(table, body, Topic(platform.stream, name, PUSHED))
    with platform.ledger.write(durable=False) as db:
        emit(db, "rows.pushed", name, {"rows": len(body), "offset": offset}, at_us=platform.clock.now_us(), actor=access.name)
    return {"offset": offset, "rows": len(body)}

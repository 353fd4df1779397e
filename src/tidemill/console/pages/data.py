"""Tables, their batches, anomalies and profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from tidemill.api.queries import data
from tidemill.api.queries.rejected import rejected_rows
from tidemill.console.draw.spark import histogram, volumes
from tidemill.console.render import page, platform_of
from tidemill.core.errors import NotFoundError, TidemillError, not_found
from tidemill.validation.ports import Profile

router = APIRouter(include_in_schema=False)
MAX_COLUMNS = 60
PROFILES = 7


@router.get("/data")
def tables(request: Request, status: str = "", offset: int = 0) -> Response:
    """All tables, and the newest batches of all of them."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found = data.tables(db, platform.definitions.tables)
        for table in found:
            table["spark"] = volumes(
                data.volumes(db, table["table_name"], limit=60), label=f"Rows of the last batches of {table['table_name']}"
            )
        batches = data.batches(db, status=status, offset=offset, limit=25)
    return page(request, "data.html", "data", tables=found, batches=batches, status=status)


@router.get("/data/{table}")
def one(request: Request, table: str, status: str = "", offset: int = 0) -> Response:
    """One table: definition, profile, snapshots, batches."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        batches = data.batches(db, table=table, status=status, offset=offset, limit=25)
        if table not in platform.definitions.tables and not batches.items:
            raise not_found("table", table, platform.definitions.tables)
        profile = data.profile(db, platform.profiler, f"table:{table}", newest=PROFILES)
        spark = volumes(data.volumes(db, table), label=f"Rows of the last batches of {table}", width=720, height=56)
    rules = platform.schemas.find(table)
    return page(
        request, "table.html", "data", table=table, definition=platform.definitions.tables.get(table), batches=batches, status=status, spark=spark,
        window=profile and profile[0], columns=_columns(profile[1]) if profile else [], rules={c.name: c for c in rules.columns} if rules else {},
        snapshots=_snapshots(request, table),
    )  # fmt: skip


@router.get("/batches/{batch_id}")
def batch(request: Request, batch_id: str) -> Response:
    """One batch: what was wrong with it, and its rows if they were refused."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found = data.batch(db, batch_id)
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    gone = ""
    if found["status"] == "rejected":
        try:
            columns, rows = rejected_rows(platform, found, limit=25)
        except NotFoundError as missing:
            gone = str(missing)
    return page(request, "batch.html", "data", batch=found, columns=columns, rows=rows, gone=gone)


def _snapshots(request: Request, table: str) -> list[Any]:
    try:
        return list(platform_of(request).tables.snapshots(table)[:12])
    except TidemillError:
        return []


def _columns(profile: Profile) -> list[dict[str, Any]]:
    out = []
    for name in profile.columns()[:MAX_COLUMNS]:
        figures = profile.column(name)
        out.append({"name": name, **figures, "picture": _picture(name, figures)})
    return out


def _picture(name: str, figures: Mapping[str, Any]) -> Markup:
    shape = figures.get("histogram")
    if shape:
        return histogram(shape["edges"], shape["counts"], label=f"Distribution of {name}")
    return Markup("")

"""Observations, labels and why a prediction was what it was."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request

from tidemill.api.access import allow
from tidemill.api.queries import labels, monitoring
from tidemill.api.routes.shared import Platform
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import parse_instant
from tidemill.monitoring import Stated, label_statements
from tidemill.monitoring.labels import MAX_ROWS as MAX_LABELS
from tidemill.serving.tokens import Access

router = APIRouter(tags=["monitoring"])


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """A label as a client states it. `known` defaults to now, `event` to when it is known, `writer` to the name of the token."""

    label: str
    key: str
    value: float | None
    event: str = ""
    known: str | None = None
    writer: str | None = None


@router.get("/monitors/{service}")
def objectives(platform: Platform, service: str) -> dict[str, Any]:
    """The objectives a service is watched by."""
    platform.definitions.service(service)
    with platform.ledger.read() as db:
        return {"items": monitoring.objectives(db, service)}


@router.get("/monitors/{service}/{objective}")
def series(
    platform: Platform, service: str, objective: str, version: int | None = None, limit: Annotated[int, Query(ge=1, le=2000)] = 500
) -> dict[str, Any]:
    """The last windows of an objective, oldest first, with interval and coverage."""
    with platform.ledger.read() as db:
        return {"items": monitoring.series(db, service, objective, version=version, limit=limit)}


@router.get("/labels/{label}")
def coverage(platform: Platform, label: str) -> dict[str, Any]:
    """How many predictions of the last days have their label."""
    return labels.coverage(platform, label)


@router.post("/labels", status_code=201, openapi_extra={"requestBody": {"content": {"application/json": {}}}})
async def add(request: Request, platform: Platform, access: Annotated[Access, Depends(allow("ingest"))]) -> dict[str, Any]:
    """State labels: a JSON list of {"label", "key", "value", "event"?, "known"?, "writer"?}; a later statement of a key revises the earlier one."""
    try:
        stated = msgspec.json.decode(await request.body(), type=list[Statement])
    except msgspec.DecodeError as exc:
        raise InvalidError(f"the body is not a list of labels: {exc}") from None
    if not 1 <= len(stated) <= MAX_LABELS:
        raise InvalidError(f"send 1 to {MAX_LABELS:,} labels at a time, not {len(stated):,}")
    by_writer: dict[tuple[str, str], list[Stated]] = {}
    for item in stated:
        if item.label not in platform.definitions.labels:
            raise not_found("label", item.label, platform.definitions.labels)
        known_us = parse_instant(item.known) if item.known else None
        row = Stated(item.key, item.value, parse_instant(item.event) if item.event else None, known_us)
        by_writer.setdefault((item.label, item.writer or f"api:{access.name}"), []).append(row)
    now, defined = platform.clock.now_us(), platform.definitions.labels
    rows = [r for (label, who), said in by_writer.items() for r in label_statements(defined[label], who, said, now_us=now)]
    return {"new": platform.labels.write(rows), "stated": len(rows)}


@router.get("/predictions/{prediction_id}")
def why(request: Request, platform: Platform, prediction_id: str) -> Mapping[str, Any]:
    """Everything behind one prediction: model, decision, run, snapshots, features with their source rows, label."""
    found: Mapping[str, Any] = request.app.state.why(platform, prediction_id)
    return found

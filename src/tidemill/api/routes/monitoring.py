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
from tidemill.monitoring.ports import LabelRow
from tidemill.serving.tokens import Access

router = APIRouter(tags=["monitoring"])
MAX_LABELS = 10_000


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """A label as a client states it; `known` defaults to now."""

    label: str
    key: str
    value: float | None
    event: str
    known: str | None = None


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
    """State labels: a JSON list of {"label", "key", "value", "event", "known"?}; a later statement of a key revises the earlier one."""
    try:
        stated = msgspec.json.decode(await request.body(), type=list[Statement])
    except msgspec.DecodeError as exc:
        raise InvalidError(f"the body is not a list of labels: {exc}") from None
    if not 1 <= len(stated) <= MAX_LABELS:
        raise InvalidError(f"send 1 to {MAX_LABELS:,} labels at a time, not {len(stated):,}")
    rows = [_row(platform, item, access.name) for item in stated]
    return {"new": platform.labels.write(rows), "stated": len(rows)}


def _row(platform: Platform, item: Statement, who: str) -> LabelRow:
    if item.label not in platform.definitions.labels:
        raise not_found("label", item.label, platform.definitions.labels)
    known_us = parse_instant(item.known) if item.known else platform.clock.now_us()
    event_us = parse_instant(item.event)
    if event_us > known_us:
        raise InvalidError(f"the label of {item.key!r} happened at {item.event}, after it was known; swap event and known")
    return LabelRow(item.label, item.key, item.value, event_us, known_us, writer=f"api:{who}")


@router.get("/predictions/{prediction_id}")
def why(request: Request, platform: Platform, prediction_id: str) -> Mapping[str, Any]:
    """Everything behind one prediction: model, decision, run, snapshots, features with their source rows, label."""
    found: Mapping[str, Any] = request.app.state.why(platform, prediction_id)
    return found

"""The audit log as a page of JSON or, for who accepts text/event-stream, as a live stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from tidemill.api.gone import LedgerGone
from tidemill.api.needs import Needs
from tidemill.api.queries import events
from tidemill.api.routes.shared import Limit, Platform
from tidemill.api.tidy import TidyResponse
from tidemill.core.errors import LedgerGoneError

router = APIRouter(tags=["events"])
POLL_S = 0.5
HEARTBEAT_S = 15.0


def _read(platform: Needs, seq: int, limit: int) -> list[dict[str, Any]]:
    with platform.ledger.read() as db:
        return events.behind(db, seq, limit=limit)


async def follow(
    platform: Needs, seq: int, *, gone: LedgerGone | None = None, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[bytes]:
    """Server-sent events behind `seq`, for ever; a comment every `heartbeat_s` of silence keeps proxies from hanging up.

    While the ledger is gone the browser's connection stays, and what happened comes once it is back. An event of the kind `ledger` says that it
    went, and that it is back.
    """
    silent, away = 0.0, False
    yield b"retry: 2000\n\n"
    while True:
        try:
            found = await run_in_threadpool(_read, platform, seq, 200)
        except LedgerGoneError as error:
            found = []
            if not away:
                away = True
                yield _about_ledger(since_us=gone.state(error).since_us if gone else platform.clock.now_us())
        else:
            if away:
                away = False
                yield _about_ledger(since_us=None)
        for item in found:
            seq = item["seq"]
            yield b"id: %d\ndata: %s\n\n" % (seq, msgspec.json.encode(item))
        silent = 0.0 if found else silent + poll_s
        if silent >= heartbeat_s:
            silent = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(poll_s)


def _about_ledger(*, since_us: int | None) -> bytes:
    return b"event: ledger\ndata: %s\n\n" % msgspec.json.encode({"gone_since_us": since_us})


@router.get("/events", response_model=None)
async def stream(request: Request, platform: Platform, after: Annotated[int | None, Query(ge=0)] = None, limit: Limit = 50) -> Response:
    """Events behind number `after` (default: the Last-Event-ID header, else from now on for a stream and from the start for a page)."""
    resumed = request.headers.get("last-event-id", "")
    seq = after if after is not None and not resumed.isdigit() else int(resumed) if resumed.isdigit() else None
    if "text/event-stream" not in request.headers.get("accept", ""):
        return TidyResponse({"items": await run_in_threadpool(_read, platform, seq or 0, limit)})
    if seq is None:
        seq = await run_in_threadpool(_newest, platform)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(follow(platform, seq, gone=request.app.state.gone), media_type="text/event-stream", headers=headers)


def _newest(platform: Needs) -> int:
    with platform.ledger.read() as db:
        return events.last_seq(db)

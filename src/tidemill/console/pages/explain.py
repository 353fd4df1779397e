"""Which source rows made a feature's value, and which were not known yet: one view, one entity, one instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from tidemill.api.access import access_of
from tidemill.api.queries import features
from tidemill.api.queries.personal import note_revealed
from tidemill.api.queries.times import as_of
from tidemill.console.draw.timeline import timeline
from tidemill.console.render import page, platform_of
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import NotFoundError, TidemillError
from tidemill.core.instants import DAY_US, format_duration, format_instant, parse_instant
from tidemill.core.privacy import hide
from tidemill.features.ports import SourceRow

router = APIRouter(include_in_schema=False)
LIMIT = 60


@router.get("/features/{view}")
def one(request: Request, view: str, at: str = "") -> Response:
    """A view, and the explanation for the keys in the query string when all are given."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        found, now_us = features.view(db, platform.definitions, view), as_of(db, platform.clock)
    keys = {key: request.query_params.get(key, "") for key in found["keys"]}
    at_us = parse_instant(at) if at else now_us
    rows: Sequence[SourceRow] = ()
    problem = ""
    if all(keys.values()):
        try:
            rows = _rows(request, view, keys, at_us)
        except (TidemillError, NotFoundError) as error:
            problem = str(error)
    return page(
        request, "view.html", "features", view=found, keys=keys, at=at or format_instant(at_us - at_us % DAY_US), at_us=at_us, rows=rows,
        asked=all(keys.values()), problem=problem, picture=_picture(rows, at_us, platform.definitions.views[view]),
    )  # fmt: skip


def _rows(request: Request, view: str, keys: dict[str, str], at_us: int) -> Sequence[SourceRow]:
    platform = platform_of(request)
    definition = platform.definitions.views[view]
    row: dict[str, Any] = {**keys, "at": at_us}
    found = platform.offline.explain(row, definition, platform.tables.scan(definition.table.name), limit=LIMIT)
    if not definition.table.personal:
        return found
    if request.query_params.get("reveal"):
        access = access_of(request)
        access.require("reveal")
        note_revealed(platform.ledger, view, f"token:{access.name}", at_us=platform.clock.now_us())
        return found
    return [replace(r, values=hide(r.values, [definition.table])) for r in found]


def _picture(rows: Sequence[SourceRow], at_us: int, view: FeatureView) -> Markup:
    return timeline([(r.event_us, r.known_us, r.use) for r in rows], at_us, windows_of(view, at_us))


def windows_of(view: FeatureView, at_us: int) -> list[tuple[str, int]]:
    """What the view's features look back over at `at_us`, the shortest first: its name, and where it begins."""
    begins: dict[str, int] = {}
    for a in view.aggregates:
        if a.windowed:
            begins[f"{format_duration(a.over_us)}, hop {format_duration(a.hop_us)}"] = (at_us - a.over_us) // a.hop_us * a.hop_us
        elif a.ttl_us:
            begins[f"ttl {format_duration(a.ttl_us)}"] = at_us - a.ttl_us - 1
    return sorted(begins.items(), key=lambda item: -item[1])

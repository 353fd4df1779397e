"""Services: who answers, how fast, and how far a rollout has come."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.needs import Needs
from tidemill.api.queries import decisions, graphs, loadtests, services, state, traffic
from tidemill.api.queries.times import as_of
from tidemill.console import plots
from tidemill.console.draw.composed import composed
from tidemill.console.draw.spark import histogram, shares
from tidemill.console.evidence import looks
from tidemill.console.figures import latency
from tidemill.console.render import page, platform_of
from tidemill.core.errors import UnavailableError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.ledger import conditions
from tidemill.serving.ports import Prediction

router = APIRouter(include_in_schema=False)
SAMPLE = 500


@router.get("/services")
def listing(request: Request, service: str = "", offset: int = 0) -> Response:
    """One service at a time; with one service that is all there is."""
    platform = platform_of(request)
    with platform.ledger.read() as db:
        now_us = as_of(db, platform.clock)
        names = services.names(db, list(platform.definitions.services))
        name = service or (names[0] if names else "")
        current = services.current(db, name)
        nodes = graphs.nodes(db, platform.registry, platform.definitions.services.get(name))
        history = services.history(db, name, offset=offset, limit=20)
        made = decisions.listing(db, service=name, limit=40).items
        replayed, loaded = traffic.listing(db, name)[:6], loadtests.listing(db, name)[:6]
        without = [c for c in conditions.current(db, platform.clock.now_us()) if c.service == name]
        health, look = state.find(db, f"serving:{name}"), state.find(db, f"rollout:{name}")
    answered = _recent(platform, name, now_us) if name else []
    shown = latency([p.latency_us for p in answered])
    trying = look is not None and any(d["role"] != "live" and d["version"] == look.get("version") for d in current)
    past = next((d for d in made if d["kind"] in ("rollout", "rollback") and len(looks(d["evidence"])) > 1), None)
    seen = looks(look) if trying else looks(past["evidence"]) if past else []
    return page(
        request, "services.html", "services", now_us=now_us, names=names, name=name, definition=platform.definitions.services.get(name), current=current,
        replayed=replayed, loaded=loaded,
        nodes=nodes, graph=composed(nodes),
        history=history, health=health, without=without, answered=answered, latency=shown, trying=look if trying else None,
        past=past, recent=answered[-12:][::-1],
        split=shares([(f"v{d['version']} {d['role']}", d["role"], d["weight"]) for d in current if d["weight"]], label="Traffic split", width=720),
        spread=histogram(shown["edges"], shown["counts"], label="Latency of the last answers", width=420) if shown else "",
        rollout=[d for d in made if d["kind"] in ("rollout", "rollback")][:8],
        plots={"sequence": plots.sequence(seen, _margin(platform, name))} if len(seen) > 1 else {},
    )  # fmt: skip


def _margin(platform: Needs, name: str) -> float:
    found = platform.definitions.services.get(name)
    return found.rollout.margin if found else 0.0


def _recent(platform: Needs, name: str, now_us: int) -> list[Prediction]:
    """The last answers, from the youngest hour or day that has any."""
    for reach in (HOUR_US, DAY_US):
        try:
            found: Any = platform.log.read(name, from_us=now_us - reach, until_us=now_us + 1, roles=("live", "canary"))
            rows = list(deque(islice(found, 20_000), maxlen=SAMPLE))
        except UnavailableError:
            return []
        if rows:
            return rows
    return []

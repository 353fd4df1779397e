"""Online features from published tables: versions, what they lack, how fresh they are."""

from __future__ import annotations

import logging
from collections.abc import Collection

import sqlalchemy as sa

from tidemill import features
from tidemill.core.errors import InvalidError, LostError, NotFoundError
from tidemill.core.graphs import models_of
from tidemill.features.freshness import Freshness
from tidemill.features.materialize import Filled, Progress, Stale
from tidemill.features.pieces import Published
from tidemill.ledger import schema
from tidemill.retraining.alerts import tell
from tidemill.retraining.ports import Loop

logger = logging.getLogger(__name__)


def published(loop: Loop) -> dict[str, Published]:
    """What is published of each table that a version of a view reads. The count comes first, so that a batch in between is seen again."""
    batch = schema.batch.c
    query = sa.select(batch.table_name, sa.func.count()).where(batch.status == "published").group_by(batch.table_name)
    with loop.ledger.read() as db:
        counts: dict[str, int] = {str(name): int(n) for name, n in db.execute(query)}
    found = {}
    for state in loop.processor.versions():
        name = state.view.table.name
        if name not in found:
            try:
                scan = loop.tables.scan(name)
            except LookupError:
                continue
            found[name] = Published(loop.definitions.tables.get(name, state.view.table), scan, counts.get(name, 0))
    return found


def stale(loop: Loop, views: Collection[str] | None = None) -> list[Stale]:
    """What online state lacks, and why; changes nothing."""
    with loop.ledger.read() as db:
        remembered = features.remembered(db)
    return features.stale(loop.processor.versions(), published(loop), remembered=remembered, views=views)


def feed(
    loop: Loop,
    views: Collection[str] | None = None,
    *,
    from_us: int | None = None,
    until_us: int | None = None,
    publish: bool = True,
    progress: Progress = lambda _done, _of, _what: None,
) -> list[Filled]:
    """Bring online state up to date, number new versions, let go of those that nobody reads, and state how fresh all is.

    Idempotent and level-triggered: it looks at what is missing, so a killed run is simply taken again. See `features.materialize`.
    """
    now, done = loop.clock.now_us(), list[Filled]()
    with loop.writing():
        features.number(loop.ledger, loop.definitions.views.values(), at_us=now, actor=loop.actor)
        with loop.ledger.read() as db:
            remembered = features.remembered(db)
        for last in (False, True):
            try:
                done = features.materialize(
                    loop.processor, published(loop), at_us=now, views=views, from_us=from_us, until_us=until_us, publish=publish,
                    remembered=remembered, progress=progress,
                )  # fmt: skip
                break
            except LostError:  # what was lost is absent by now, and is made anew
                if last:
                    raise
        _note_published(loop)
        features.drop_unread(loop.processor, loop.ledger, now_us=now, kept=_read_by_graphs(loop), actor=loop.actor)
        refresh(loop)
    return done


def _read_by_graphs(loop: Loop) -> set[str]:
    """Versions of views that the nodes of graphs were trained on; a model that a graph asks for need not be deployed."""
    found: set[str] = set()
    for service in loop.definitions.services.values():
        for node in models_of(service.graph) if service.graph is not None else ():
            if not node.owned and (node.version is not None or node.alias):
                try:
                    version = loop.registry.get(node.registered, node.version if node.version is not None else node.alias)
                except NotFoundError:
                    continue
                found |= set(features.pinned(version.meta).values())
    return found


def publish(loop: Loop, view: str) -> str:
    """Let the version of a view that the definitions have be read; return how it is called. Raises `InvalidError` unless it is complete."""
    with loop.writing():
        states = [s for s in loop.processor.versions() if s.view.name == view and s.wanted]
        if not states:
            raise NotFoundError(f"the definitions have no feature view {view!r}")
        if states[0].status in ("absent", "building"):
            raise InvalidError(f"feature view {view!r} is not complete yet; run `tidemill features materialize {view}`")
        loop.processor.publish({states[0].digest: True})
        _note_published(loop)
        refresh(loop)
    with loop.ledger.read() as db:
        return next(v.name for v in features.versions(db, view) if v.digest == states[0].digest)


def _note_published(loop: Loop) -> None:
    """The store is the truth; the ledger follows, also after a crash in between."""
    with loop.ledger.read() as db:
        remembered = features.remembered(db)
    served = {s.digest for s in loop.processor.versions() if s.status == "published"}
    if new := served - remembered:
        features.note_published(loop.ledger, new, at_us=loop.clock.now_us(), actor=loop.actor)


def refresh(loop: Loop) -> list[Freshness]:
    """State how far each view lags; a promise that has just been broken is an event, and an alert where alerts go somewhere."""
    now = loop.clock.now_us()
    promised = {view.name: view.freshness_us for view in loop.definitions.views.values()}
    states = loop.processor.versions()
    features.note_online(loop.ledger, states, now_us=now)
    found = features.freshness(states, promised, now)
    for late in features.note_freshness(loop.ledger, found, now_us=now, actor=loop.actor):
        logger.warning("features.late", extra={"view": late.view, "lag_us": late.lag_us})
        tell(loop, f"features.late:{late.view}", {"text": features.in_words(late), "lag_us": late.lag_us})
    return found

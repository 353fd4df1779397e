"""Versions of feature views in the ledger: their numbers, who reads them, and which nobody reads any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import DAY_US
from tidemill.core.meaning import view_body, view_digest
from tidemill.features.ports import StreamProcessor
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, to_json

KEEP_US = 7 * DAY_US
"""How long after its end a deployment can still be brought back, so that the state that its model reads stays."""
_T = schema.view_version


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a view. `reason` is why it is deprecated."""

    view: str
    number: int
    digest: str
    body: Mapping[str, Any]
    at_us: int
    published_us: int | None
    deprecated_us: int | None
    dropped_us: int | None
    reason: str | None

    @property
    def name(self) -> str:
        """How people call it: `traffic@2`."""
        return f"{self.view}@{self.number}"


def versions(db: sa.Connection, view: str | None = None) -> list[Version]:
    """All versions by view and number, or those of one view."""
    query = sa.select(_T).order_by(_T.c.view, _T.c.number)
    rows = db.execute(query if view is None else query.where(_T.c.view == view)).mappings()
    return [Version(**{k: v for k, v in row.items() if k != "body"}, body=from_json(row["body"])) for row in rows]


def number(ledger: Ledger, views: Iterable[FeatureView], *, at_us: int, actor: str = "tidemill") -> dict[str, Version]:
    """The version of each view as it is defined now, by view name; one that was never seen gets the next number."""
    digests = {view.name: (view_digest(view), view) for view in views}
    with ledger.read() as db:
        known = {v.digest: v for v in versions(db)}
    new = {name: pair for name, pair in digests.items() if pair[0] not in known}
    if new:
        with ledger.write() as db:
            for name, (digest, view) in new.items():
                _add(db, name, digest, view, at_us, actor)
            known = {v.digest: v for v in versions(db)}
    return {name: known[digest] for name, (digest, _) in digests.items()}


def _add(db: sa.Connection, name: str, digest: str, view: FeatureView, at_us: int, actor: str) -> None:
    there = {v.digest: v.number for v in versions(db, name)}
    if digest in there:
        return
    place = max(there.values(), default=0) + 1
    db.execute(sa.insert(_T).values(view=name, number=place, digest=digest, body=to_json(view_body(view)), at_us=at_us))
    emit(db, "features.version", name, {"version": place, "digest": digest}, at_us=at_us, actor=actor)


def find(db: sa.Connection, text: str) -> list[Version]:
    """Versions that `view` or `view@number` names. Raises `NotFoundError`, `InvalidError`."""
    name, at, place = text.partition("@")
    found = versions(db, name)
    if not found:
        raise not_found("feature view", name, {v.view for v in versions(db)})
    if not at:
        return found
    if not place.isdecimal():
        raise InvalidError(f"{text!r} names no version; write for example {name}@{found[-1].number}")
    chosen = [v for v in found if v.number == int(place)]
    if not chosen:
        raise not_found("version", text, [v.name for v in found])
    return chosen


def remembered(db: sa.Connection) -> frozenset[str]:
    """Digests of versions that were published and not dropped, so that a store without them was flushed."""
    query = sa.select(_T.c.digest).where(_T.c.published_us.is_not(None), _T.c.dropped_us.is_(None))
    return frozenset(db.execute(query).scalars())


def note_published(ledger: Ledger, digests: Collection[str], *, at_us: int, actor: str = "tidemill") -> None:
    """Remember that versions are read from now on."""
    with ledger.write() as db:
        for version in [v for v in versions(db) if v.digest in digests]:
            db.execute(sa.update(_T).where(_T.c.digest == version.digest).values(published_us=at_us, dropped_us=None))
            body = {"version": version.number, "digest": version.digest}
            emit(db, "features.published", version.view, body, at_us=at_us, actor=actor)


def deprecate(ledger: Ledger, text: str, reason: str = "", *, at_us: int, actor: str = "tidemill") -> list[Version]:
    """Say that a view, or one version of it, should not be read any more; return the versions. Nothing stops being served."""
    with ledger.write() as db:
        chosen = find(db, text)
        for version in chosen:
            db.execute(sa.update(_T).where(_T.c.digest == version.digest).values(deprecated_us=at_us, reason=reason or None))
            body = {"version": version.number, "digest": version.digest, "reason": reason}
            emit(db, "features.deprecated", version.view, body, at_us=at_us, actor=actor)
        return find(db, text)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a version: a service by its definition, or a model version by what it was trained on, in the role that it has."""

    version: str
    digest: str
    service: str
    model: str
    role: str


def readers(db: sa.Connection, definitions: Definitions) -> list[Reader]:
    """Everybody who reads some version: services as defined, and registered model versions with their present role (or `registered`)."""
    names = {v.digest: v.name for v in versions(db)}
    found = [
        Reader(names.get(view_digest(view), view.name), view_digest(view), service.name, "", "defined")
        for service in definitions.services.values()
        for view in service.views
    ]
    m, d = schema.model_version, schema.deployment
    roles = {(row.model, row.version): row.role for row in db.execute(sa.select(d.c.model, d.c.version, d.c.role).order_by(d.c.since_us))}
    for row in db.execute(sa.select(m.c.name, m.c.version, m.c.meta).order_by(m.c.name, m.c.version)):
        for digest in pinned(from_json(row.meta)).values():
            role = roles.get((row.name, row.version), "registered")
            found.append(Reader(names.get(digest, digest[:19]), digest, row.name, f"{row.name}/{row.version}", role))
    return found


def pinned(meta: Mapping[str, Any]) -> dict[str, str]:
    """The digest of each view that a model version was trained on, by view name; empty for a model that does not say."""
    views = meta.get("views")
    return dict(views) if isinstance(views, Mapping) else {}


def unread(db: sa.Connection, candidates: Collection[str], now_us: int) -> set[str]:
    """Which of some versions (digests) no deployment reads, nor one that ended less than `KEEP_US` ago."""
    m, d = schema.model_version, schema.deployment
    recent = sa.or_(d.c.ended_us.is_(None), d.c.ended_us > now_us - KEEP_US)
    joined = sa.select(m.c.meta).join(d, sa.and_(d.c.model == m.c.name, d.c.version == m.c.version)).where(recent)
    read = {digest for meta in db.execute(joined).scalars() for digest in pinned(from_json(meta)).values()}
    return set(candidates) - read


def drop_unread(
    processor: StreamProcessor, ledger: Ledger, *, now_us: int, kept: Collection[str] = (), actor: str = "tidemill"
) -> list[str]:
    """Forget the state of versions that are neither defined nor current nor read by a deployment, nor `kept`; return their digests."""
    old = [s.digest for s in processor.versions() if not s.wanted and not s.current]
    if not old:
        return []
    with ledger.read() as db:
        free = unread(db, old, now_us) - set(kept)
    for digest in sorted(free):
        processor.drop(digest)
        with ledger.write() as db:
            db.execute(sa.update(_T).where(_T.c.digest == digest).values(dropped_us=now_us))
            emit(db, "features.dropped", digest, {}, at_us=now_us, actor=actor)
    return sorted(free)

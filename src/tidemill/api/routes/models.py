"""Model versions and the decisions that made them what they are."""

import dataclasses
from typing import Any

from fastapi import APIRouter

from tidemill.api.queries import decisions
from tidemill.api.routes.shared import Limit, Offset, Platform
from tidemill.core.errors import NotFoundError
from tidemill.registry.ports import ModelVersion

router = APIRouter(tags=["models"])


def described(version: ModelVersion) -> dict[str, Any]:
    """A version as JSON."""
    return {**dataclasses.asdict(version), "uri": version.uri}


@router.get("/models")
def models(platform: Platform) -> dict[str, Any]:
    """Each model name with its newest version and its aliases."""
    items: dict[str, dict[str, Any]] = {}
    for version in platform.registry.versions():
        item = items.setdefault(version.name, {"name": version.name, "newest": version.version, "aliases": {}})
        item["aliases"].update(dict.fromkeys(version.aliases, version.version))
    return {"items": list(items.values())}


@router.get("/models/{name}/versions")
def versions(platform: Platform, name: str, offset: Offset = 0, limit: Limit = 50) -> dict[str, Any]:
    """Versions of a model, newest first."""
    found = platform.registry.versions(name)
    if not found:
        raise NotFoundError(f"model {name!r} has no versions yet; `tidemill train` makes one")
    items = [described(v) for v in found[offset : offset + limit]]
    return {"items": items, "offset": offset, "limit": limit, "next": offset + limit if offset + limit < len(found) else None}


@router.get("/models/{name}/versions/{version}")
def one(platform: Platform, name: str, version: str) -> dict[str, Any]:
    """One version, by number or alias, with the decisions about it."""
    found = platform.registry.get(name, int(version) if version.isdigit() else version)
    with platform.ledger.read() as db:
        return {**described(found), "decisions": decisions.about(db, name, found.version)}

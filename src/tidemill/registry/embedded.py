"""Model versions in the ledger, their directories in the blob store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from tidemill.core.errors import InvalidError, not_found
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, insert_once, to_json, upsert
from tidemill.registry.ports import ModelVersion
from tidemill.versioning.ports import BlobStore


class LedgerRegistry:
    """A `ModelRegistry` in the ledger. A version is only given to a directory that the blob store has."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs

    def register(
        self, name: str, digest: str, *, run_id: str, metrics: Mapping[str, float], meta: Mapping[str, Any], at_us: int
    ) -> ModelVersion:
        size = self._blobs.size_bytes(digest)
        table = schema.model_version
        same = (table.c.name == name) & (table.c.digest == digest) & (table.c.run_id == run_id)
        with self._ledger.write() as db:
            version = db.execute(sa.select(table.c.version).where(same)).scalar()
            if version is None:
                insert_once(db, schema.model, {"name": name, "at_us": at_us, "meta": to_json({})})
                version = (db.execute(sa.select(sa.func.max(table.c.version)).where(table.c.name == name)).scalar() or 0) + 1
                row = {"name": name, "version": version, "digest": digest, "run_id": run_id, "status": "registered", "at_us": at_us}
                insert_once(db, table, {**row, "metrics": to_json(metrics), "meta": to_json(meta)})
                uri = f"models:/{name}/{version}"
                insert_once(
                    db,
                    schema.artifact,
                    {"digest": digest, "kind": "model", "size_bytes": size, "meta": to_json({"uri": uri}), "at_us": at_us},
                )
                for source, target, role in _edges(uri, digest, run_id, meta):
                    insert_once(db, schema.lineage, {"source": source, "target": target, "role": role, "at_us": at_us})
                emit(db, "model.registered", uri, {"digest": digest, "run": run_id, "metrics": dict(metrics)}, at_us=at_us)
        return self.get(name, int(version))

    def get(self, name: str, version: int | str) -> ModelVersion:
        number = version
        with self._ledger.read() as db:
            if isinstance(version, str) and not version.isdecimal():
                alias = schema.model_alias.c
                number = db.execute(sa.select(alias.version).where(alias.name == name, alias.alias == version)).scalar() or 0
            table = schema.model_version
            row = db.execute(sa.select(table).where(table.c.name == name, table.c.version == int(number))).first()
            if row is None:
                raise self._missing(db, name, version)
            return _version(row, _aliases(db, name).get(int(number), ()))

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        table = schema.model_version
        query = sa.select(table).order_by(table.c.at_us.desc(), table.c.name, table.c.version.desc())
        if name is not None:
            query = sa.select(table).where(table.c.name == name).order_by(table.c.version.desc())
        with self._ledger.read() as db:
            rows = db.execute(query).all()
            aliases = {found: _aliases(db, found) for found in {row.name for row in rows}}
        return [_version(row, aliases[row.name].get(row.version, ())) for row in rows]

    def set_alias(self, name: str, alias: str, version: int, *, decision_id: str, at_us: int) -> None:
        if not decision_id:
            raise InvalidError(f"alias {alias!r} of model {name!r} moves only by a decision; pass the id of the one that says so")
        held, table = schema.model_alias, schema.model_version.c
        with self._ledger.write() as db:
            if db.execute(sa.select(table.version).where(table.name == name, table.version == version)).first() is None:
                raise self._missing(db, name, version)
            before = db.execute(sa.select(held.c.version, held.c.decision_id).where(held.c.name == name, held.c.alias == alias)).first()
            if before is not None and tuple(before) == (version, decision_id):
                return
            upsert(db, held, {"name": name, "alias": alias, "version": version, "decision_id": decision_id, "at_us": at_us})
            edge = {"source": decision_id, "target": f"models:/{name}/{version}", "role": f"alias:{alias}"[:64], "at_us": at_us}
            insert_once(db, schema.lineage, edge)
            body = {"alias": alias, "from": before.version if before else None, "to": version, "decision": decision_id}
            emit(db, "model.alias", f"models:/{name}@{alias}", body, at_us=at_us)

    def set_status(self, name: str, version: int, status: str) -> None:
        table = schema.model_version
        ours = (table.c.name == name) & (table.c.version == version)
        with self._ledger.write() as db:
            if not db.execute(sa.update(table).where(ours).values(status=status)).rowcount:
                raise self._missing(db, name, version)

    @staticmethod
    def _missing(db: sa.Connection, name: str, version: int | str) -> Exception:
        names = [str(found) for found in db.execute(sa.select(schema.model.c.name)).scalars()]
        if name not in names:
            return not_found("model", name, names)
        table = schema.model_version.c
        numbers = [str(n) for n in db.execute(sa.select(table.version).where(table.name == name)).scalars()]
        aliases = db.execute(sa.select(schema.model_alias.c.alias).where(schema.model_alias.c.name == name)).scalars()
        return not_found(f"version of model {name!r}", str(version), [*numbers, *map(str, aliases)])


def _edges(uri: str, digest: str, run_id: str, meta: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """What a version came from: its run, its directory, its training set, and the snapshots behind that."""
    yield run_id, uri, "registered"
    yield digest, uri, "packaged"
    dataset = meta.get("dataset")
    if dataset:
        yield dataset, uri, "trained_on"
        for table, snapshot in (meta.get("snapshots") or {}).items():
            yield f"{table}@{snapshot}", dataset, "read"
    if meta.get("baseline"):
        yield meta["baseline"], uri, "baseline"


def _aliases(db: sa.Connection, name: str) -> dict[int, tuple[str, ...]]:
    held = schema.model_alias.c
    out: dict[int, tuple[str, ...]] = {}
    for alias, version in db.execute(sa.select(held.alias, held.version).where(held.name == name).order_by(held.alias)):
        out[version] = (*out.get(version, ()), alias)
    return out


def _version(row: Any, aliases: tuple[str, ...]) -> ModelVersion:
    metrics, meta = from_json(row.metrics), from_json(row.meta)
    return ModelVersion(row.name, row.version, row.digest, row.run_id, row.status, row.at_us, metrics, meta, aliases)

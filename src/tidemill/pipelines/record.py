"""What the executor writes to the ledger: one transaction before a node starts, one after it ends, a durable one at the run's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, insert_once, to_json, upsert
from tidemill.pipelines.ports import Graph, Node, Step
from tidemill.pipelines.trace import refs, replace

_CACHED = sa.select(schema.step_cache.c.output, schema.step_cache.c.run_id).where(schema.step_cache.c.cache_key == sa.bindparam("key"))

_FINISH = (
    sa.update(schema.step_run)
    .where(schema.step_run.c.run_id == sa.bindparam("of_run"), schema.step_run.c.node == sa.bindparam("of_node"))
    .values(status="finished", output=sa.bindparam("kept"), wall_ms=sa.bindparam("took"))
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier attempt at a run left of a node: its key, where its output is kept, and the versions of the world that it read."""

    key: str
    output: dict[str, Any]
    versions: Mapping[str, Any]


@dataclass(slots=True)
class Record:
    """The ledger's rows of one run. Rows of cached nodes wait for the next transaction, because nothing is lost with them."""

    ledger: Ledger
    run_id: str
    graph: Graph
    waiting: list[dict[str, Any]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    lineage: list[tuple[str, str, str]] = field(default_factory=list)

    def begin(self, *, cause_id: str, service: str, code: Any, environment: Any, at_us: int) -> None:
        """Write the run as running, unless it is there from an attempt that was killed."""
        row = {
            "id": self.run_id,
            "pipeline": self.graph.pipeline,
            "service": service,
            "cause_id": cause_id,
            "status": "running",
            "params": to_json(self.graph.params),
            "graph": to_json(drawing(self.graph)),
            "code": to_json(code),
            "environment": to_json(environment),
            "started_us": at_us,
        }
        with self.ledger.write(durable=False) as db:
            ours = schema.run.c.id == self.run_id
            before = db.execute(sa.select(schema.run.c.status).where(ours)).scalar()
            if not insert_once(db, schema.run, row):
                again = {key: row[key] for key in ("status", "graph", "code", "environment")}
                db.execute(sa.update(schema.run).where(ours).values(**again, error=None, finished_us=None))
            if before != "running":  # one that was killed goes on; it started once
                emit(db, "run.started", self.run_id, {"pipeline": self.graph.pipeline, "service": service, "cause": cause_id}, at_us=at_us)

    def finished_nodes(self) -> dict[str, Earlier]:
        """The nodes that an earlier attempt at this run finished."""
        step = schema.step_run.c
        query = sa.select(step.node, step.cache_key, step.output, step.key_parts)
        with self.ledger.read() as db:
            rows = db.execute(query.where(step.run_id == self.run_id, step.status.in_(("finished", "cached")))).all()
        return {node: Earlier(key, from_json(output), from_json(parts).get("versions") or {}) for node, key, output, parts in rows}

    def cached(self, key: str) -> dict[str, Any] | None:
        """The output kept under a cache key."""
        with self.ledger.read() as db:
            row = db.execute(_CACHED, {"key": key}).first()
        return None if row is None else from_json(row[0])

    def node_cached(self, node: Node, key: str, parts: Mapping[str, Any], output: Mapping[str, Any], at_us: int) -> None:
        """Note a node whose output was there already."""
        self.waiting.append(self._row(node, "cached", key, parts, at_us, output=to_json(output)))

    def node_started(self, node: Node, key: str, parts: Mapping[str, Any], at_us: int) -> None:
        """Write that a node is running."""
        with self.ledger.write(durable=False) as db:
            self._flush(db)
            row = self._row(node, "running", key, parts, at_us, output=None, wall_ms=None, error=None)
            _put_all(db, schema.step_run, [row], replace=True)

    def node_finished(self, node: Node, key: str, output: Mapping[str, Any], wall_ms: float, at_us: int) -> None:
        """Write a node's output, and keep it under its key for later runs."""
        text = to_json(output)
        with self.ledger.write(durable=False) as db:
            db.execute(_FINISH, {"of_run": self.run_id, "of_node": node.id, "kept": text, "took": wall_ms})
            if not node.step.reads_world:
                kept = {"cache_key": key, "step": node.step.name, "output": text, "run_id": self.run_id, "at_us": at_us}
                _put_all(db, schema.step_cache, [kept], replace=True)

    def end(
        self,
        status: str,
        *,
        at_us: int,
        wall_s: float,
        output: Any = None,
        error: str | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> None:
        """Write how the run ended, durably, with its parameters, artifacts and lineage."""
        values = {
            "status": status,
            "finished_us": at_us,
            "wall_s": wall_s,
            "output": None if output is None else to_json(output),
            "error": error,
        }
        with self.ledger.write() as db:
            self._flush(db)
            for node, text in (failed or {}).items():
                ours = (schema.step_run.c.run_id == self.run_id) & (schema.step_run.c.node == node)
                db.execute(sa.update(schema.step_run).where(ours).values(status="failed", error=text))
            params = [{"run_id": self.run_id, "name": name, "value": value} for name, value in self.params.items()]
            _put_all(db, schema.param, params, replace=True)
            _put_all(db, schema.artifact, [{"digest": d, "at_us": at_us, **row} for d, row in self.artifacts.items()])
            edges = dict.fromkeys(self.lineage)
            _put_all(db, schema.lineage, [{"source": s, "target": t, "role": role, "at_us": at_us} for s, t, role in edges])
            db.execute(sa.update(schema.run).where(schema.run.c.id == self.run_id).values(**values))
            emit(db, f"run.{status}", self.run_id, {"pipeline": self.graph.pipeline, "error": error}, at_us=at_us)

    def note(self, node: Node, output: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any]) -> None:
        """Remember parameters, artifacts and edges of a node for the end of the run."""
        self.params |= {f"{node.id}.{name}": _text(value) for name, value in params.items()}
        meta = {key: value for key, value in output.items() if key not in ("items", "parts", "value", "metrics")}
        kind, size = str(output["codec"]), int(output.get("size_bytes", 0))
        self.artifacts[output["digest"]] = {"kind": kind, "size_bytes": size, "meta": to_json(meta)}
        self.lineage.append((self.run_id, output["digest"], "produced"))
        self.lineage += [(given["digest"], output["digest"], f"{node.step.name}.{name}"[:64]) for name, given in inputs.items()]
        for name, part in (output.get("items") or {}).items():
            if output["codec"] == "dict":
                self.lineage.append((output["digest"], part["digest"], f"item {name}"[:64]))

    def _flush(self, db: sa.Connection) -> None:
        _put_all(db, schema.step_run, self.waiting, replace=True)
        self.waiting.clear()

    def _row(self, node: Node, status: str, key: str, parts: Mapping[str, Any], at_us: int, **more: Any) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "node": node.id,
            "step": node.step.name,
            "status": status,
            "cache_key": key,
            "key_parts": to_json(parts),
            "inputs": to_json(parts["inputs"]),
            "at_us": at_us,
            **more,
        }


def run_row(ledger: Ledger, run_id: str) -> Any:
    """Status, output, error and wall seconds of a run, None when there is none."""
    run = schema.run.c
    with ledger.read() as db:
        return db.execute(sa.select(run.status, run.output, run.error, run.wall_s).where(run.id == run_id)).first()


def last_keys(ledger: Ledger, pipeline: str) -> dict[str, dict[str, Any]]:
    """Key parts of each node of a pipeline, of the last time it was finished or found in the cache."""
    step, run = schema.step_run.c, schema.run.c
    query = (
        sa.select(step.node, step.key_parts)
        .join_from(schema.step_run, schema.run, step.run_id == run.id)
        .where(run.pipeline == pipeline, step.status.in_(("finished", "cached")))
        .order_by(step.at_us, run.started_us)
    )
    with ledger.read() as db:
        rows = db.execute(query).all()
    return {node: from_json(parts) for node, parts in dict(map(tuple, rows)).items()}


def counts(ledger: Ledger, run_id: str) -> tuple[int, int]:
    """Numbers of nodes that ran and that were cached."""
    step = schema.step_run.c
    with ledger.read() as db:
        rows = db.execute(sa.select(step.status, sa.func.count()).where(step.run_id == run_id).group_by(step.status)).all()
    by = {status: int(n) for status, n in rows}
    return by.get("finished", 0), by.get("cached", 0)


def drawing(graph: Graph) -> dict[str, Any]:
    """A graph as JSON: nodes with their arguments, references as `{"node", "item"}`, and edges."""

    def shown(value: Any) -> Any:
        return _drawn(replace(value, lambda ref: {"node": ref.node, "item": ref.item}))

    nodes = [{"id": n.id, "step": n.step.name, "args": {k: shown(v) for k, v in n.args.items()}} for n in graph.nodes]
    edges = sorted({(ref.node, node.id) for node in graph.nodes for ref in refs(list(node.args.values()))})
    return {"nodes": nodes, "edges": [list(edge) for edge in edges], "output": shown(graph.output)}


def _drawn(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _drawn(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_drawn(v) for v in value]
    if isinstance(value, Step):
        return {"step": value.name}
    return value if isinstance(value, str | int | float | bool | None) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Step):
        return value.name
    return value if isinstance(value, str) else getattr(value, "__qualname__", None) or repr(value)[:2000]


def _put_all(db: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, replace: bool = False) -> None:
    """Insert rows of equal columns; those whose key is there already stay as they are, or are replaced. One statement where the ledger is SQLite."""
    if not rows:
        return
    if db.dialect.name != "sqlite":
        for row in rows:
            (upsert if replace else insert_once)(db, table, row)
        return
    db.execute(_statement(table, tuple(rows[0]), replace), list(rows))


@cache
def _statement(table: sa.Table, columns: tuple[str, ...], replace: bool) -> Any:
    """SQLite's insert that leaves rows alone, or replaces `columns` of them; built once, because building costs more than running."""
    from sqlalchemy.dialects.sqlite import insert

    statement = insert(table)
    if not replace:
        return statement.on_conflict_do_nothing()
    keys = [column.name for column in table.primary_key.columns]
    rest = {name: statement.excluded[name] for name in columns if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)

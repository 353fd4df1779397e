"""The graph of a service: its nodes in the order of the definition, with the version that each of them asks now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from tidemill.api.queries import services
from tidemill.api.queries.rows import Record
from tidemill.core.definitions import Service
from tidemill.core.errors import NotFoundError
from tidemill.core.graphs import EnsembleNode, FunctionNode, ModelNode, Node, SequenceNode, SplitterNode, SwitchNode
from tidemill.registry.ports import ModelRegistry


def nodes(db: sa.Connection, registry: ModelRegistry, service: Service | None) -> list[Record]:
    """Each node after the one that it stands in, one deeper; none for a service without a graph.

    `depth` says where it stands, `when` for which rows it is asked, `how` what it does; `version` is None, and `problem` says why, where no
    version answers for it now.
    """
    if service is None or service.graph is None:
        return []
    return list(_told(db, registry, service, service.graph, 0, ""))


def _told(db: sa.Connection, registry: ModelRegistry, service: Service, node: Node, depth: int, when: str) -> Iterator[Record]:
    if isinstance(node, SequenceNode):
        yield _record("sequence", "sequence", depth, when)
        for inner in node.nodes:
            yield from _told(db, registry, service, inner, depth + 1, "")
        return
    yield _record(node.name, _kind(node), depth, when) | _about(db, registry, service, node)
    if isinstance(node, EnsembleNode | SwitchNode | SplitterNode):
        for inner, condition in zip(node.nodes, _conditions(node), strict=True):
            yield from _told(db, registry, service, inner, depth + 1, condition)


def _record(name: str, kind: str, depth: int, when: str) -> Record:
    empty: Record = {"model": "", "wanted": "", "version": None, "how": "", "problem": "", "beside": []}
    return {"node": name, "kind": kind, "depth": depth, "when": when, **empty}


def _kind(node: Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _about(db: sa.Connection, registry: ModelRegistry, service: Service, node: Node) -> dict[str, Any]:
    if isinstance(node, FunctionNode):
        return {"version": node.code, "how": f"reads {', '.join(node.reads)}"}
    if isinstance(node, EnsembleNode):
        how = "a function" if node.combine == "function" else node.combine
        return {"how": how if node.quorum == len(node.nodes) else f"{how}, {node.quorum} of {len(node.nodes)} must answer"}
    if isinstance(node, SwitchNode):
        return {"how": f"by {node.column or ', '.join(node.reads)}"}
    if isinstance(node, SplitterNode):
        return {"how": f"by {node.by or service.key}"}
    assert isinstance(node, ModelNode)
    return {"model": node.registered or service.name, "wanted": node.wanted} | _version(db, registry, service, node)


def _version(db: sa.Connection, registry: ModelRegistry, service: Service, node: ModelNode) -> dict[str, Any]:
    name = node.registered or service.name
    if node.version is not None or node.alias:
        try:
            return {"version": str(registry.get(name, node.version if node.version is not None else node.alias).version)}
        except NotFoundError:
            return {"problem": f"{name!r} has no {node.wanted}"}
    found = services.current(db, name)
    live = next((d for d in found if d["role"] == "live"), None)
    beside = [{"version": str(d["version"]), "role": d["role"]} for d in found if d is not live] if node.owned else []
    return {"version": str(live["version"]), "beside": beside} if live else {"problem": f"nothing of {name!r} is live", "beside": beside}


def _conditions(node: EnsembleNode | SwitchNode | SplitterNode) -> list[str]:
    if isinstance(node, SwitchNode):
        yes_no = {value for value, _node in node.cases} == {1.0, 0.0} and node.otherwise is None
        named = [("yes" if value else "no") if yes_no else value if isinstance(value, str) else f"{value:g}" for value, _node in node.cases]
        return named + ([] if node.otherwise is None else ["otherwise"])
    if isinstance(node, EnsembleNode):
        return [f"{w:g}" for w in node.weights] if node.weights else [""] * len(node.nodes)
    return [f"{w:.0%}" if (w * 100).is_integer() else f"{w:g}" for w in node.weights]

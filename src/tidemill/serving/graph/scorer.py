"""A service that answers by a graph: its scorer binds the graph anew whenever a node's version changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Service
from tidemill.core.errors import ConflictError, CorruptError, NotFoundError, UnavailableError
from tidemill.core.graphs import ModelNode, graph_version, models_of, owned
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.serving.graph.bind import GraphModel, Loaded, Spent, Walk
from tidemill.serving.graph.frame import Base
from tidemill.serving.graph.patience import Patience
from tidemill.serving.plan import DegradedInputs, Plan
from tidemill.serving.ports import Deployment, LoadedModel, Prediction, Role, Router
from tidemill.serving.score import Lineup, Rows, Scorer
from tidemill.serving.sticky import keys_of
from tidemill.serving.tally import Tally

OWN_VERSION = 0
"""What a graph of others' models answers as: it has no version of its own, its route says which versions answered."""


class NoVersionError(UnavailableError):
    """A node asks for a version of another's model, and there is none; there may be one any time."""


class GraphScorer(Scorer):
    """A `Scorer` whose deployments each answer by the graph, with their own model at the node that is the service's own.

    A graph without such a node has one deployment, which no rollout moves.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._graph = self.service.graph
        self._own = owned(self._graph)
        self._others = [node for node in models_of(self._graph) if not node.owned]
        self._patience = Patience()
        self._asked: dict[str, ModelVersion] = {}
        self._serving: dict[str, str] = {}
        self._memory: dict[str, LoadedModel] = {}
        self._local = threading.local()

    # who answers

    def refresh(self, *, again: bool = False) -> bool:
        """See `Scorer.refresh`; a node whose model has another version by now counts as a change."""
        changed = super().refresh(again=again)
        lineup = self._lineup
        if changed or self.released:
            used = {found.version.digest for m in lineup.models.values() if isinstance(m, GraphModel) for found in m.models.values()}
            self._memory = {digest: model for digest, model in self._memory.items() if digest in used}
        return changed

    def _wanted(self) -> list[Deployment]:
        self._asked = {node.name: version_for(self.service.name, node, self.registry, self._router) for node in self._others}
        if self._own is not None:
            return super()._wanted()
        name, digest = self.service.name, f"graph:{graph_version(self._graph)}"
        return [Deployment(f"graph-{name}", name, name, OWN_VERSION, digest, "live", 1.0, 0)]

    def _is_current(self) -> bool:
        return {name: version.digest for name, version in self._asked.items()} == self._serving

    def _taken(self, lineup: Lineup) -> None:
        super()._taken(lineup)
        self._serving = {name: version.digest for name, version in self._asked.items()}

    def _prepared(self, deployment: Deployment, models: Mapping[str, LoadedModel]) -> tuple[LoadedModel, Plan]:  # noqa: ARG002 - each binds its own
        asked = dict(self._asked)
        if self._own is not None:
            version = self.registry.get(deployment.model, deployment.version)
            if version.digest != deployment.digest:
                raise CorruptError(
                    f"{deployment.model} version {deployment.version} is registered as {version.digest} and deployed as {deployment.digest}; "
                    "deploy the registered artifact"
                )
            asked[self._own.name] = version
        plan = self._plan if self._plan_for is None else self._plan_for({"views": merged_pins(self.service.name, asked)})
        loaded = {name: Loaded(version, self._in_memory(version.digest)) for name, version in asked.items()}
        return GraphModel(self.service.name, self._graph, plan.columns, loaded, self._patience, texts=plan.texts), plan

    def _in_memory(self, digest: str) -> LoadedModel:
        if digest not in self._memory:
            self._memory[digest] = self._loaded(digest)
        return self._memory[digest]

    # answering

    def respond(self, *args: Any, **kwargs: Any) -> list[Prediction]:
        """See `Scorer.respond`; what its nodes spent is given out by `spent`, in the same thread."""
        self._local.spent = []
        return super().respond(*args, **kwargs)

    def spent(self) -> list[Spent]:
        """What the nodes spent on the last call of `respond` in this thread."""
        found: list[Spent] = getattr(self._local, "spent", [])
        self._local.spent = None
        return found or []

    def _score(self, lineup: Lineup, deployment: Deployment, role: Role, rows: Rows, tally: Tally | None = None) -> list[Prediction]:
        tally = tally or self.tally
        graph, plan = lineup.models[deployment.digest], self.plan_of(lineup, deployment)
        assert isinstance(graph, GraphModel)
        compared, started = len(lineup.deployments) > 1, self.timer()
        walk = Walk(lambda by: self._keys(by, rows, plan.columns))
        try:
            scores, routes = graph.answer(Base(plan.columns, len(rows.ids), rows=rows.inputs, texts=graph.texts), walk)
        except Exception:
            if compared:
                tally.failed(deployment.id, role)
            raise
        finally:
            kept = getattr(self._local, "spent", None)
            if kept is not None:
                kept += walk.spent
        latency_us = (self.timer() - started) // 1000
        if compared:
            tally.answered(deployment.id, role, latency_us)
        return [
            Prediction(
                key, self.service.name, deployment.model, deployment.version, role, at, score, plan.columns, values, request, latency_us,
                values.mode if isinstance(values, DegradedInputs) else "", route,
            )
            for key, values, request, at, score, route in zip(*rows, scores.tolist(), routes, strict=True)
        ]  # fmt: skip

    def _keys(self, by: str, rows: Rows, columns: Sequence[str]) -> Sequence[str]:
        return rows.ids if by in ("", self.service.key) else keys_of(by, rows.ids, rows.requests, rows.inputs, columns)


def version_for(service: str, node: ModelNode, registry: ModelRegistry, router: Router) -> ModelVersion:
    """The version that a node of another's model asks for now. Raises `NoVersionError` when there is none."""
    try:
        if node.version is not None or node.alias:
            return registry.get(node.registered, node.version if node.version is not None else node.alias)
    except NotFoundError as error:
        raise NoVersionError(
            f"node {node.name!r} of {service!r} asks for {node.wanted} of {node.registered!r}, which there is not: {error}"
        ) from error
    live = next((d for d in router.deployments(node.registered) if d.role == "live"), None)
    if live is None:
        raise NoVersionError(
            f"node {node.name!r} of {service!r} asks for what {node.registered!r} has live, and nothing is; deploy a version of it first"
        )
    return registry.get(live.model, live.version)


def merged_pins(service: str, versions: Mapping[str, ModelVersion]) -> dict[str, str]:
    """The versions of feature views that all models of a graph were trained on. Raises `ConflictError` when two disagree."""
    pins: dict[str, tuple[str, str]] = {}
    for node, version in versions.items():
        given = version.meta.get("views")
        for view, digest in given.items() if isinstance(given, Mapping) else ():
            before = pins.setdefault(view, (str(digest), node))
            if before[0] != str(digest):
                raise ConflictError(
                    f"nodes {before[1]!r} and {node!r} of {service!r} were trained on different versions of feature view {view!r}, and a request "
                    "has one; train the older one again"
                )
    return {view: digest for view, (digest, _node) in pins.items()}


def scorer_for(service: Service, *ports: Any) -> Scorer:
    """The scorer of a service: by its graph, or by its own model. `ports`: as `Scorer` takes them, from the plan on."""
    return (Scorer if service.graph is None else GraphScorer)(service, *ports)

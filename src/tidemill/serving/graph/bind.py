"""From a graph's definition and models in memory to something that answers rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from tidemill.core.errors import InvalidError
from tidemill.core.graphs import FunctionNode, ModelNode, Node, SequenceNode, SplitterNode, SwitchNode, graph_version, nodes_of
from tidemill.registry.ports import ModelVersion
from tidemill.serving.graph.frame import Base, Frame
from tidemill.serving.graph.nodes import (
    Answer,
    Bound,
    BoundEnsemble,
    BoundFunction,
    BoundModel,
    BoundNothing,
    BoundSequence,
    BoundSplitter,
    BoundSwitch,
    Spent,
    Visits,
    Walk,
    leaf_visit,
)
from tidemill.serving.graph.patience import Patience
from tidemill.serving.graph.threads import Together
from tidemill.serving.node_errors import NodeError
from tidemill.serving.ports import LoadedModel, Matrix, Visit

Route = tuple[Visit, ...]


class Loaded(NamedTuple):
    """A model that a node asks for."""

    version: ModelVersion
    model: LoadedModel


@dataclass(frozen=True, slots=True)
class _Binder:
    service: str
    base: tuple[str, ...]
    models: Mapping[str, Loaded]
    patience: Patience

    def bind(self, node: Node, there: Mapping[str, bool]) -> Bound:
        """The node, where these columns are there; True for those that the requests themselves bring."""
        if isinstance(node, ModelNode):
            return self._model(node, there)
        if isinstance(node, FunctionNode):
            visit = leaf_visit(node)
            return BoundFunction(
                self.service, node.name, "function", visit, self.patience, node.timeout_us, node.gives, node.function, node.reads
            )
        if isinstance(node, SequenceNode):
            bound = list[Bound]()
            for inner in node.nodes:
                bound.append(self.bind(inner, there))
                there = {**there, **dict.fromkeys(inner.gives, False)}
            return BoundSequence(tuple(bound), node.gives)
        inside = tuple(self.bind(inner, there) for inner in node.nodes)
        if isinstance(node, SwitchNode):
            return BoundSwitch(self.service, node, inside, node.gives, tuple(value for value, _node in node.cases), node.reads)
        if isinstance(node, SplitterNode):
            return BoundSplitter(self.service, node, inside, node.gives, np.cumsum(node.weights))
        together = Together(self.patience.beside, len(inside))
        return BoundEnsemble(self.service, node, inside, node.gives, node.reads, together)

    def _model(self, node: ModelNode, there: Mapping[str, bool]) -> Bound:
        if node.name not in self.models:
            return BoundNothing(self.service, node.name, node.gives)
        version, model = self.models[node.name]
        if missing := [name for name in model.features if name not in there]:
            raise InvalidError(
                f"node {node.name!r} of {self.service!r} is {version.name} version {version.version}, which reads {', '.join(missing)}; "
                "neither the service's features nor a node before it give that; add it to features=, or let a node give it"
            )
        direct = _taking(model.features, self.base) if all(there[name] for name in model.features) else None
        visit = leaf_visit(node, version.name, version.version)
        return BoundModel(self.service, node.name, "model", visit, self.patience, node.timeout_us, node.gives, model, direct)


class GraphModel(LoadedModel):
    """A graph with its models: what a graph service has in the place of a model."""

    platform = "ensemble"

    def __init__(
        self,
        service: str,
        graph: Node,
        columns: tuple[str, ...],
        models: Mapping[str, Loaded],
        patience: Patience,
        *,
        texts: frozenset[str] = frozenset(),
    ) -> None:
        """Bind a graph.

        Args:
            service: its name.
            graph: its definition.
            columns: what a row brings, in order.
            models: by node; a node without one fails when it is asked.
            patience: makes calls that may take only so long.
            texts: columns that are known to hold texts.
        """
        self.features = columns
        self.version = graph_version(graph)
        cases = (n.column for n in nodes_of(graph) if isinstance(n, SwitchNode) and any(isinstance(case, str) for case, _node in n.cases))
        self.texts = texts.union(cases, *(found.model.texts for found in models.values())) & frozenset(self.features)
        waits = any(getattr(node, "timeout_us", 0) for node in nodes_of(graph))
        self.apart = waits or any(found.model.apart for found in models.values())
        self.models = models
        self._service = service
        self._root = _Binder(service, columns, models, patience).bind(graph, dict.fromkeys(columns, True))
        self._whole = Visit("", self.version)

    def explain(self, rows: Sequence[Sequence[Any]]) -> Matrix:  # noqa: ARG002 - as the port has it
        """See `LoadedModel.explain`."""
        raise InvalidError(
            f"{self._service!r} answers by a graph, which cannot say what its features contribute; ask a model of its by itself"
        )

    def predict(self, rows: Sequence[Sequence[Any]]) -> Matrix:
        """Rows without requests; see `answer`. A splitter needs to know whose they are."""

        def keys(by: str) -> Sequence[str]:
            raise InvalidError(f"a splitter of {self._service!r} decides by {by or 'the id'}, which rows alone do not have; send requests")

        return self.answer(Base(self.features, len(rows), rows=rows, texts=self.texts), Walk(keys))[0]

    def answer(self, base: Base, walk: Walk, *, places: Any = None) -> tuple[Matrix, list[Route]]:
        """Score and route of each row.

        Raises:
            NodeError: a node failed, or the graph's answer is no finite number.
            NodeTimeoutError: a node took longer than it may.
            NodeUnavailableError: what a node needs does not answer.
            InvalidError: a row has a value of the wrong kind.
        """
        frame = Frame(base, places=places)
        found: Answer = self._root.run(frame, walk)
        scores = found.columns[0]
        if scores.dtype == object or not np.isfinite(scores).all():
            raise NodeError(self._service, self._root.gives[0], "it must answer with one finite number a row")
        return scores, self._routes(frame, found.visits)

    def _routes(self, frame: Frame, visits: Visits) -> list[Route]:
        """The stations of each row; equal routes are one value."""
        if all(places is None or places is frame.places for _visit, places in visits):
            return [(self._whole, *(visit for visit, _places in visits))] * frame.size
        at = {int(place): i for i, place in enumerate(frame.places)} if frame.places is not None else None
        stations: list[list[int]] = [[] for _ in range(frame.size)]
        for number, (_visit, places) in enumerate(visits):
            for place in range(frame.size) if places is None else places.tolist():
                stations[place if at is None else at[place]].append(number)
        made: dict[tuple[int, ...], Route] = {}
        out = []
        for numbers in map(tuple, stations):
            if numbers not in made:
                made[numbers] = (self._whole, *(visits[i][0] for i in numbers))
            out.append(made[numbers])
        return out


def _taking(features: Sequence[str], base: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What takes a model's inputs from a row of the service's columns."""
    if tuple(features) == tuple(base):
        return tuple
    if len(features) == 1:
        place = base.index(features[0])
        return lambda row: (row[place],)
    return itemgetter(*(base.index(name) for name in features)) if features else lambda _row: ()


__all__ = ["GraphModel", "Loaded", "Route", "Spent", "Walk"]

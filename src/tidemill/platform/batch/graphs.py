"""Scoring many rows by a service's graph: the same code as the server's, over columns instead of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.core.graphs import models_of, owned
from tidemill.features import apply_on_demand
from tidemill.serving import Pins, compile_plan
from tidemill.serving.graph.bind import GraphModel, Loaded, Route, Walk
from tidemill.serving.graph.frame import Base
from tidemill.serving.graph.patience import Patience
from tidemill.serving.graph.scorer import OWN_VERSION, merged_pins, version_for
from tidemill.serving.node_errors import NodeError
from tidemill.serving.ports import Matrix, Visit
from tidemill.serving.sticky import keys_of
from tidemill.training import encode_columns, is_text

if TYPE_CHECKING:
    from tidemill.platform.root import Platform

_Nodes = Mapping[str, Sequence[Any]]


def nodes_now(platform: Platform, service: Service) -> dict[str, tuple[str, int]]:
    """Name and version of each model that the graph asks others for, as a batch keeps them while it lasts."""
    found = {n.name: version_for(service.name, n, platform.registry, platform.router) for n in models_of(service.graph) if not n.owned}
    return {name: (version.name, version.version) for name, version in found.items()}


class ByGraph:
    """A graph for a batch. `service` has the versions of feature views that its models were trained on."""

    def __init__(self, platform: Platform, service: Service, version: int, nodes: _Nodes) -> None:
        versions = {name: platform.registry.get(str(model), int(number)) for name, (model, number) in nodes.items()}
        own = owned(service.graph)
        if own is not None:
            versions[own.name] = platform.registry.get(service.name, version)
        plan = compile_plan(service, platform.reader, apply_on_demand)
        plan = Pins(plan, platform.reader, apply_on_demand).plan_for({"views": merged_pins(service.name, versions)})
        loaded = {name: Loaded(v, platform.runtime.load(platform.blobs.fetch(v.digest))) for name, v in versions.items()}
        self._model = GraphModel(service.name, service.graph, plan.columns, loaded, Patience())
        self.service = plan.service
        self.version = version
        self.failed = 0

    def prepared(self, joined: pa.Table) -> tuple[Base, Walk]:
        """The graph's first columns, and by what its splitters split."""
        arrays = {name: _array(joined, name) for name in self.service.columns}
        ids: list[str] = joined.column("id").to_pylist()

        def keys(by: str) -> Sequence[str]:
            if by in ("", self.service.key):
                return ids
            if by not in joined.column_names:
                raise InvalidError(f"a splitter of {self.service.name!r} decides by {by!r}, and the rows have no such column; add it")
            requests = [{by: value} for value in joined.column(by).to_pylist()]
            return keys_of(by, ids, requests, [()] * len(ids), ())

        return Base(self.service.columns, joined.num_rows, arrays=arrays), Walk(_once(keys))

    def scored(self, base: Base, walk: Walk, pool: Executor, piece: int) -> dict[str, pa.Array]:
        """Columns `score` and `route`, in pieces on all cores; a row on which a node fails has no score."""
        edges = [*range(0, base.size, piece), base.size]
        parts = list(pool.map(lambda ab: self._part(base, walk, np.arange(*ab)), pairwise(edges)))
        scores = np.concatenate([scores for scores, _routes in parts])
        routes = [msgspec.json.encode(route).decode() for _scores, found in parts for route in found]
        missing = np.isnan(scores)
        self.failed += int(missing.sum())
        return {"score": pa.array(scores, pa.float64(), mask=missing), "route": pa.array(routes, pa.string())}

    def _part(self, base: Base, walk: Walk, places: Any) -> tuple[Matrix, list[Route]]:
        try:
            return self._model.answer(base, Walk(walk.keys), places=places)
        except NodeError as error:
            if len(places) == 1:
                return np.array([np.nan]), [(Visit("", self._model.version), Visit(error.node, "", "", error.state))]
        half = len(places) // 2
        (a, first), (b, second) = self._part(base, walk, places[:half]), self._part(base, walk, places[half:])
        return np.concatenate([a, b]), first + second


def own_version(service: Service, asked: int | None) -> int | None:
    """What a graph without a model of its own answers as; None for all other services. Raises `InvalidError` when a version is asked for."""
    if service.own_model:
        return None
    if asked is not None:
        raise InvalidError(f"{service.name!r} answers by a graph of others' models and has no versions; leave --model out")
    return OWN_VERSION


def _array(joined: pa.Table, name: str) -> Any:
    """A column as nodes read it."""
    column = joined.column(name)
    if is_text(column.type):
        return np.array(column.cast(pa.string()).to_pylist(), dtype=object)
    return encode_columns(joined.select([name]), [name], {})[:, 0]


def _once(keys: Callable[[str], Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """Keys of a column are made once, however many splitters and slices ask for them."""
    made: dict[str, Sequence[str]] = {}

    def cached(by: str) -> Sequence[str]:
        if by not in made:
            made[by] = keys(by)
        return made[by]

    return cached

"""How a graph came to an answer: its route from the log, each model's version and run, and what the nodes say of the same inputs again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill.core.definitions import Service
from tidemill.core.errors import TidemillError
from tidemill.core.graphs import graph_version
from tidemill.core.privacy import is_masked
from tidemill.registry.ports import ModelVersion
from tidemill.retraining.ports import Loop
from tidemill.serving.graph.bind import GraphModel, Loaded, Walk
from tidemill.serving.graph.frame import Base
from tidemill.serving.graph.patience import Patience
from tidemill.serving.ports import Prediction, Visit
from tidemill.serving.sticky import keys_of


def route_of(loop: Loop, service: Service, answer: Prediction) -> dict[str, Any] | None:
    """What `why` says of the graph that made an answer; None where one model made it.

    Returns:
        `version` of the graph; `stations` in order, each with the run that trained its model and, where the graph and its functions are still the
        same, what the node says of the logged inputs (`said`, else None); `again`: the score that comes out now, None when it cannot be computed, and `note`
        why not.
    """
    if not answer.route:
        return None
    whole, *visits = answer.route
    versions: dict[str, ModelVersion] = {v.node: loop.registry.get(v.model, int(v.version)) for v in visits if v.model and not v.state}
    said, again, note = _again(loop, service, answer, whole.version, versions)
    stations = [{**_station(v, versions.get(v.node)), "said": said.get(v.node)} for v in visits]
    compositions = [{"node": name, "said": value} for name, value in said.items() if name not in {v.node for v in visits}]
    return {"version": whole.version, "stations": stations, "compositions": compositions, "again": again, "note": note}


def _station(visit: Visit, version: ModelVersion | None) -> dict[str, Any]:
    behind = (
        {"uri": "", "digest": "", "run": ""} if version is None else {"uri": version.uri, "digest": version.digest, "run": version.run_id}
    )
    return {"node": visit.node, "model": visit.model, "version": visit.version, "state": visit.state or "ok", **behind}


def _again(
    loop: Loop, service: Service, answer: Prediction, version: str, versions: Mapping[str, ModelVersion]
) -> tuple[dict[str, Any], float | None, str]:
    if service.graph is None or graph_version(service.graph) != version:
        return {}, None, f"the graph has been defined anew since; this answer was made by its version {version}"
    if any(map(is_masked, (*answer.values, *answer.request.values()))):
        return {}, None, "its inputs were masked in the log"
    try:
        loaded = {name: Loaded(v, loop.runtime.load(loop.blobs.fetch(v.digest))) for name, v in versions.items()}
        model = GraphModel(service.name, service.graph, answer.columns, loaded, Patience())
        walk = Walk(_keys(service, answer), said={})
        scores, _routes = model.answer(Base(answer.columns, 1, rows=[answer.values], texts=model.texts), walk)
    except TidemillError as error:
        return {}, None, str(error)
    return {name: _plain(columns) for name, columns in (walk.said or {}).items()}, float(scores[0]), ""


def _keys(service: Service, answer: Prediction) -> Callable[[str], Sequence[str]]:
    def keys(by: str) -> Sequence[str]:
        return [answer.id] if by in ("", service.key) else keys_of(by, [answer.id], [answer.request], [answer.values], answer.columns)

    return keys


def _plain(columns: Sequence[Any]) -> Any:
    """What a node gave one row, as JSON has it: NaN is null."""
    values = [None if value != value else value for value in (column.tolist()[0] for column in columns)]
    return values[0] if len(values) == 1 else values

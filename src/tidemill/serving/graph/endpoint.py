"""The endpoint of a service that answers by a graph: what its nodes spent goes into metrics and traces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from tidemill.serving.endpoint import Endpoint, Outcome, Waiting
from tidemill.serving.graph.bind import Spent
from tidemill.serving.graph.scorer import GraphScorer
from tidemill.serving.node_errors import NodeTimeoutError
from tidemill.serving.protocol import Call
from tidemill.serving.score import Lineup


class GraphEndpoint(Endpoint):
    """An `Endpoint` over a `GraphScorer`."""

    def __init__(self, scorer: GraphScorer, *args: Any) -> None:
        super().__init__(scorer, *args)
        self._graph = scorer
        self._arrived: deque[Spent] = deque()

    def _together(self, calls: Sequence[Call], lineup: Lineup) -> list[Outcome]:
        try:
            outcomes = super()._together(calls, lineup)
        except NodeTimeoutError as error:
            self._take(calls)
            # asked again, each alone, all of them would wait once more
            return [Outcome(lineup, error=error) for _ in calls]
        except Exception:
            # the calls of a group that failed are asked again, each alone, and then their failures count
            self._take(calls, failures=len(calls) == 1)
            raise
        self._take(calls)
        return outcomes

    def _take(self, calls: Sequence[Call], *, failures: bool = True) -> None:
        spent = self._graph.spent()
        self._arrived += spent if failures else [s for s in spent if not s.state]
        if self.tracing:
            _tell(calls, spent)

    def _finish(self, waiting: Waiting, outcomes: Sequence[Outcome]) -> None:
        super()._finish(waiting, outcomes)
        while self._arrived:
            spent = self._arrived.popleft()
            self.metrics.node(spent.node, (spent.end - spent.start) / 1e9, spent.state)


def _tell(calls: Sequence[Call], spent: Sequence[Spent]) -> None:
    """A span for each node, in each trace of the group."""
    for call in calls:
        if call.trace is not None:
            for s in spent:
                more = {"version": s.version} if s.version else {}
                call.trace.part(f"node {s.node}", s.start, s.end, node=s.node, kind=s.kind, rows=s.rows, state=s.state or "ok", **more)

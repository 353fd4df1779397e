"""What a model, or a node of a graph, may do instead of answering. None of it tells a caller more than which node it was; the log has the rest."""

from __future__ import annotations

from tidemill.core.errors import TidemillError, UnavailableError
from tidemill.serving.admission import DeadlineError


class ScoreError(TidemillError):
    """A model answered with something else than a number."""

    def __init__(self, service: str, version: int) -> None:
        super().__init__(
            f"version {version} of {service!r} answered with a score that is not a finite number, so nothing is answered or logged"
        )


class NodeError(TidemillError):
    """A node failed. `state`: what the log and the metrics say of it."""

    state = "failed"

    def __init__(self, service: str, node: str, reason: str = "the server's log says why") -> None:
        super().__init__(f"node {node!r} of service {service!r} failed; {reason}")
        self.node = node


class NodeTimeoutError(DeadlineError):
    """A node took longer than its definition allows."""

    state = "timeout"

    def __init__(self, service: str, node: str, seconds: float) -> None:
        super().__init__(f"node {node!r} of service {service!r} did not answer within {seconds:g} s, which is its timeout")
        self.node = node


class NodeUnavailableError(UnavailableError):
    """What a node needs does not answer."""

    state = "failed"

    def __init__(self, service: str, node: str, reason: str) -> None:
        super().__init__(f"node {node!r} of service {service!r} cannot answer: {reason}")
        self.node = node


FAILURES = (NodeError, NodeTimeoutError, NodeUnavailableError)

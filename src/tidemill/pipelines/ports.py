"""Steps, the graph they form and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ref:
    """The output of a node, or one item of it."""

    node: str
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph. `args` maps parameter names to constants, `Ref`s, or (nested) lists and dicts of them."""

    id: str
    step: Step
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a pipeline call unfolds to: nodes in an order in which they can run, and what it returns."""

    pipeline: str
    nodes: tuple[Node, ...]
    output: Any
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A function that a graph can contain.

    `versions` answers the external versions the step reads (a mapping of JSON values) from its arguments and context, so that they
    are part of the cache key. `outputs` names the items of a dict result, so that they can be passed on one by one.
    `reads_world`: it reads something outside whose version is not declared; such a step is never cached.
    """

    function: Callable[..., Any]
    name: str
    versions: Callable[..., Mapping[str, Any]] | None = None
    reads_world: bool = False
    retries: int = 0


@dataclass(slots=True)
class StepContext:
    """What a running step can ask for: its run, a seed of its own, the clock and the ports by their Protocol type."""

    run_id: str
    node: str
    seed: int
    clock: Clock
    resources: Mapping[type, Any] = field(default_factory=dict)
    log_metric: Callable[[str, float, int], None] = lambda _name, _value, _step: None
    actor: str = "local"

    def resource(self, port: type[T]) -> T:
        """The implementation of `port` that this platform has. Raises `InvalidError` when it has none."""
        if port not in self.resources:
            raise InvalidError(f"this step needs a {port.__name__}, but the stack gives none; run it with `tidemill run`")
        found: T = self.resources[port]
        return found


_CONTEXT: ContextVar[StepContext] = ContextVar("tidemill_step")


def current() -> StepContext:
    """The context of the step that is running. Raises `InvalidError` outside of one."""
    try:
        return _CONTEXT.get()
    except LookupError:
        raise InvalidError("no step is running; call this from a function marked @tidemill.step, inside a pipeline run") from None


class Codec(Protocol):
    """Stores values of some types as bytes or a folder; registered with the executor by the composition root."""

    name: str

    def handles(self, value: Any) -> bool:
        """Whether this codec stores such a value."""
        ...

    def store(self, value: Any, blobs: Any) -> dict[str, Any]:
        """Put the value into the blob store; return its JSON description with the key `digest`. Equal values have equal digests."""
        ...

    def load(self, description: Mapping[str, Any], blobs: Any) -> Any:
        """Read the value back. Raises `CorruptError`."""
        ...


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What `--explain` says of a node. `state`: cached or run; `because`: the parts of the key that differ from the last time, in words."""

    node: str
    step: str
    state: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. `output` is the pipeline's value; counts are of nodes."""

    run_id: str
    status: str
    output: Any
    ran: int
    cached: int
    wall_s: float
    error: str = ""


class Executor(Protocol):
    """Runs graphs, once per content.

    Guarantees, each checked by `tidemill.testing.pipelines.ExecutorContract`:
        cached: a node whose key (code closure, input digests, parameters, external versions) was finished before does not run again.
        resumable: kill -9 at any point; the next run of the same graph uses every finished node.
        minimal: a node runs exactly if its key is new; equal outputs cut the rest off early.
        recorded: run, nodes, keys, parameters, code and environment are in the ledger before a node starts and after it ends.
        failing: an error ends the run as failed, names the node, and keeps what finished.
    """

    def run(self, graph: Graph, *, run_id: str, cause_id: str, service: str = "", force: Sequence[str] = ()) -> RunResult:
        """Run every node that is not cached; nodes whose step is named in `force` run anyway. Running a finished `run_id` again returns its result."""
        ...

    def plan(self, graph: Graph) -> list[StepPlan]:
        """Say which nodes would run and why, without running any."""
        ...


class Compiler(Protocol):
    """Writes a graph down for another orchestrator."""

    def compile(self, graph: Graph) -> Iterator[tuple[str, str]]:
        """Yield (relative path, text) of the files to write. Raises `RefusedError` for what the target cannot honour."""
        ...

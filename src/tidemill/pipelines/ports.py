"""Steps, the graph they form and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ref:
    """The output of a node, or one item of it: what a step call gives inside a pipeline. `outputs` are the items that are known by name."""

    node: str
    item: str | None = None
    outputs: tuple[str, ...] = field(default=(), compare=False)

    def keys(self) -> tuple[str, ...]:
        """The item names, so that `**ref` hands the items on as arguments. Raises `InvalidError` when they are not known."""
        if not self.outputs:
            raise InvalidError(
                f"the items of {self.node!r} have no declared names; declare them with @tidemill.step(outputs=...) or use [name]"
            )
        return self.outputs

    def __getitem__(self, item: str) -> Ref:
        if self.item is not None or not isinstance(item, str) or (self.outputs and item not in self.outputs):
            raise InvalidError(f"{self.node!r} has no item {item!r}; it has {', '.join(self.outputs) or 'one level of named items'}")
        return Ref(self.node, item)

    def __bool__(self) -> bool:
        raise InvalidError(f"the output of {self.node!r} is not known while the pipeline is laid out; decide inside of a step")

    def __iter__(self) -> Iterator[Ref]:
        raise InvalidError(f"the output of {self.node!r} is not known while the pipeline is laid out; iterate inside of a step")


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
    are part of the cache key; it is handed those arguments that it names. `outputs` names the items of a dict result (or answers the names
    from the arguments), so that they can be passed on one by one.
    `reads_world`: it reads something outside whose version is not declared; such a step is never cached.
    """

    function: Callable[..., Any]
    name: str
    versions: Callable[..., Mapping[str, Any]] | None = None
    reads_world: bool = False
    retries: int = 0
    outputs: tuple[str, ...] | Callable[[Mapping[str, Any]], Sequence[str]] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; while a pipeline is laid out, add a node to its graph instead and return a `Ref`."""
        recorder = _RECORDER.get(None)
        return self.function(*args, **kwargs) if recorder is None else recorder(self, args, kwargs)


@dataclass(slots=True)
class StepContext:
    """What a running step can ask for: its run, a seed of its own, the clock and the ports by their Protocol type.

    `key` is the step's cache key; `digests` are those of its stored arguments, by parameter name; `cores` is how many it may keep busy.
    """

    run_id: str
    node: str
    seed: int
    clock: Clock
    resources: Mapping[type, Any] = field(default_factory=dict)
    log_metric: Callable[[str, float, int], None] = lambda _name, _value, _step: None
    actor: str = "local"
    key: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1

    def digest_of(self, value: Any) -> str:
        """The digest under which an argument of this step is stored, "" for any other value."""
        return next((self.digests[name] for name, arg in self.args.items() if arg is value and name in self.digests), "")

    def resource(self, port: type[T]) -> T:
        """The implementation of `port` that this platform has. Raises `InvalidError` when it has none."""
        if port not in self.resources:
            raise InvalidError(f"this step needs a {port.__name__}, but the stack gives none; run it with `tidemill run`")
        found: T = self.resources[port]
        return found


_CONTEXT: ContextVar[StepContext] = ContextVar("tidemill_step")
_RECORDER: ContextVar[Callable[[Step, tuple[Any, ...], Mapping[str, Any]], Ref] | None] = ContextVar("tidemill_recorder")


@contextmanager
def using(context: StepContext) -> Iterator[StepContext]:
    """Make `context` the current one for the block."""
    token = _CONTEXT.set(context)
    try:
        yield context
    finally:
        _CONTEXT.reset(token)


@contextmanager
def recording(recorder: Callable[[Step, tuple[Any, ...], Mapping[str, Any]], Ref] | None) -> Iterator[None]:
    """Send step calls of the block to `recorder` instead of running them (None: run them)."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)


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
        resumable: kill -9 at any point; the next run of the same graph uses every finished node, though what it read moved on.
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

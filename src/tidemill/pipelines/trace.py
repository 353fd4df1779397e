"""`@step` and `@pipeline`, and how calling steps inside a pipeline becomes a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, overload

from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant
from tidemill.pipelines.closure import fingerprint
from tidemill.pipelines.ports import Graph, Node, Ref, Step, recording


@overload
def step(function: Callable[..., Any], /) -> Step: ...


@overload
def step(
    *,
    name: str = "",
    versions: Callable[..., Mapping[str, Any]] | None = None,
    reads_world: bool = False,
    retries: int = 0,
    outputs: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]] = (),
) -> Callable[[Callable[..., Any]], Step]: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    versions: Callable[..., Mapping[str, Any]] | None = None,
    reads_world: bool = False,
    retries: int = 0,
    outputs: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]] = (),
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a function a step: cached by its code, inputs and parameters when it runs in a pipeline, a plain function elsewhere.

    Args:
        function: the function, when used without arguments.
        name: what the step is called (default: the function's name).
        versions: answers the versions of what the step reads from outside, from those of its arguments that it names.
        reads_world: the step reads something without a version, so it is never cached.
        retries: how often to try again after an error.
        outputs: names of the items of the dict that it returns, or a function of its arguments that answers them.
    """

    def make(wrapped: Callable[..., Any]) -> Step:
        if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(wrapped).parameters.values()):
            raise InvalidError(f"step {wrapped.__name__!r} takes *args; give its parameters names, so that the cache can tell them apart")
        named = outputs if callable(outputs) else tuple(outputs)
        return Step(wrapped, name or wrapped.__name__, versions, reads_world, retries, named)

    return make if function is None else make(function)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A function that lays out a graph of steps. Calling it runs the steps as plain functions."""

    function: Callable[..., Any]
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself; inside another pipeline its steps become nodes of that one."""
        return self.function(*args, **kwargs)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what it is called with."""
        return tuple(inspect.signature(self.function).parameters)

    def graph(self, **params: Any) -> Graph:
        """Lay the pipeline out for these parameters. Raises `InvalidError` for what cannot become a graph."""
        bound = _bind(self.function, (), params, f"pipeline {self.name!r}")
        for key, parameter in inspect.signature(self.function).parameters.items():
            if isinstance(bound.get(key), str) and "Instant" in str(parameter.annotation):
                bound[key] = int(parse_instant(bound[key]))
        recorder = _Recorder(self.name)
        with recording(recorder):
            output = self.function(**bound)
        recorder.check(output, "the pipeline's result")
        return Graph(self.name, tuple(recorder.nodes), output, bound)


def pipeline(function: Callable[..., Any]) -> Pipeline:
    """Make a function of step calls a pipeline."""
    return Pipeline(function, function.__name__)


class _Recorder:
    """Collects the nodes of one layout; step calls arrive in an order in which they can run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self._seen: dict[str, int] = {}

    def __call__(self, called: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ref:
        bound = _bind(called.function, args, kwargs, f"step {called.name!r}")
        for key, value in bound.items():
            self.check(value, f"argument {key!r} of step {called.name!r}")
        count = self._seen[called.name] = self._seen.get(called.name, 0) + 1
        node = Node(called.name if count == 1 else f"{called.name}-{count}", called, bound)
        self.nodes.append(node)
        outputs = called.outputs(bound) if callable(called.outputs) else called.outputs
        return Ref(node.id, None, tuple(outputs))

    def check(self, value: Any, where: str) -> None:
        """Refuse references to other layouts and values that no cache key can hold."""
        known = {node.id for node in self.nodes}
        for ref in refs(value):
            if ref.node not in known:
                raise InvalidError(
                    f"{where} refers to {ref.node!r}, which is no earlier node of pipeline {self.name!r}; call the step in it"
                )
        if next(refs(value), None) is None:
            fingerprint(value, where)


def refs(value: Any) -> Iterator[Ref]:
    """All references inside a value of nested lists and dicts."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from refs(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from refs(item)


def replace(value: Any, by: Callable[[Ref], Any]) -> Any:
    """A copy of nested lists and dicts with every reference replaced."""
    if isinstance(value, Ref):
        return by(value)
    if next(refs(value), None) is None:
        return value
    if isinstance(value, Mapping):
        return {key: replace(item, by) for key, item in value.items()}
    return type(value)(replace(item, by) for item in value)


def _bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Arguments by parameter name, defaults filled in, those of `**kwargs` beside the others."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        names = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        unknown = [key for key in kwargs if key not in names]
        near = [n for key in unknown for n in get_close_matches(key, names, n=1)]
        hint = f"did you mean {near[0]!r}?" if near else f"its parameters are {', '.join(names) or 'none'}"
        raise InvalidError(f"{what}: {error}; {hint}") from None
    bound.apply_defaults()
    out: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        if signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD:
            out.update(value)
        else:
            out[key] = value
    return out

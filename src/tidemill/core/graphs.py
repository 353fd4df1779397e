"""An inference graph: how a service answers by several models and functions, as a value that its definition holds.

The four ways to compose are KServe's: a sequence passes columns on, an ensemble combines what its members say, a switch chooses a node by
a condition, a splitter by weight. A node gives one column under its name (a function maybe several); what stands inside a
composition is seen inside it alone, so a composition gives one column too, whichever of its nodes ran. A graph is built from values that exist
already, so it has no cycles. `check_graph` is what a service asks when it is defined; `tidemill.serving.graph` runs graphs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from tidemill.core import digests
from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_duration

Combine = Literal["mean", "weighted", "vote", "function"]
COMBINES = ("mean", "weighted", "vote")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TOLERANCE = 1e-9


@runtime_checkable
class _Service(Protocol):
    """What a graph knows of another service."""

    name: str
    graph: Any

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def request_columns(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class ModelNode:
    """A registered model. `registered`: its name, empty for the service's own.

    `version` pins one; else `alias` says which; with neither it is what the service of that name has live. `reads`: the columns it is known to read,
    where the definitions say so.
    """

    name: str
    registered: str = ""
    version: int | None = None
    alias: str = ""
    reads: tuple[str, ...] = ()
    timeout_us: int = 0

    @property
    def owned(self) -> bool:
        """Whether it is the service's own model, which its rollout moves."""
        return not self.registered

    @property
    def gives(self) -> tuple[str, ...]:
        """The columns that it adds."""
        return (self.name,)

    @property
    def wanted(self) -> str:
        """Which version it asks for, in words."""
        return (f"version {self.version}" if self.version is not None else self.alias) or "live"


@dataclass(frozen=True, slots=True)
class FunctionNode:
    """A pure function of columns: NumPy arrays in; out comes one array, or as many as `gives` names."""

    name: str
    function: Callable[..., Any]
    gives: tuple[str, ...]
    timeout_us: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads: its parameter names."""
        return tuple(inspect.signature(self.function).parameters)

    @property
    def code(self) -> str:
        """Its version: the first digits of its source's digest."""
        return code_of(self.function)


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """Nodes one after another; each sees what those before it gave. It gives what its last node gives."""

    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """That of its last node."""
        return self.nodes[-1].name

    @property
    def gives(self) -> tuple[str, ...]:
        """The columns of its last node."""
        return self.nodes[-1].gives


@dataclass(frozen=True, slots=True)
class EnsembleNode:
    """Nodes that all answer, and how their answers become one. `quorum`: how many must answer at least."""

    name: str
    nodes: tuple[Node, ...]
    combine: Combine
    weights: tuple[float, ...]
    threshold: float
    function: Callable[..., Any] | None
    quorum: int

    @property
    def gives(self) -> tuple[str, ...]:
        """The column of the combined answers."""
        return (self.name,)

    @property
    def reads(self) -> tuple[str, ...]:
        """What its function reads: members by name, and columns."""
        return () if self.function is None else tuple(inspect.signature(self.function).parameters)


@dataclass(frozen=True, slots=True)
class SwitchNode:
    """Nodes of which a condition chooses one, row by row. `column` or `function` gives the value; `otherwise` answers what no case names."""

    name: str
    column: str
    function: Callable[..., Any] | None
    cases: tuple[tuple[str | float, Node], ...]
    otherwise: Node | None

    @property
    def gives(self) -> tuple[str, ...]:
        """The column of the chosen answers."""
        return (self.name,)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What it chooses from."""
        return (*(node for _value, node in self.cases), *(() if self.otherwise is None else (self.otherwise,)))

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the condition."""
        return (self.column,) if self.function is None else tuple(inspect.signature(self.function).parameters)


@dataclass(frozen=True, slots=True)
class SplitterNode:
    """Nodes of which a weight chooses one: the same one for requests with the same value of `by` (the prediction's id when empty)."""

    name: str
    nodes: tuple[Node, ...]
    weights: tuple[float, ...]
    by: str

    @property
    def gives(self) -> tuple[str, ...]:
        """The column of the chosen answers."""
        return (self.name,)


Leaf = ModelNode | FunctionNode
Node = ModelNode | FunctionNode | SequenceNode | EnsembleNode | SwitchNode | SplitterNode
_NODES = (ModelNode, FunctionNode, SequenceNode, EnsembleNode, SwitchNode, SplitterNode)


def model(of: Any = "", *, version: int | None = None, alias: str = "", name: str = "", timeout: str = "") -> ModelNode:
    """A model as a node of a graph.

    Args:
        of: nothing for the service's own model, which its rollout moves; another service for the model that it has live; or a registered name.
        version: one version of a registered name.
        alias: the version that this alias points at; `champion` when a name comes with neither.
        name: of the node and the column it gives; the registered name (`-` becomes `_`), or `model` for the service's own.
        timeout: how long it may take (`"50ms"`); empty for as long as it needs.
    """
    timeout_us = parse_duration(timeout) if timeout else 0
    if isinstance(of, _Service):
        if version is not None or alias:
            raise InvalidError(
                f"tm.model({of.name!r} …) is what that service has live; for a version or an alias write tm.model({of.name!r})"
            )
        if of.graph is not None:
            raise InvalidError(
                f"service {of.name!r} answers by a graph, and a graph is no node; name its nodes here as well, or tm.model({of.name!r}) "
                "for the model it owns"
            )
        return ModelNode(_identifier(name or of.name), of.name, reads=tuple(of.columns), timeout_us=timeout_us)
    if not isinstance(of, str):
        raise InvalidError(f"tm.model takes a registered name or a service, not {type(of).__name__}")
    if not of and (version is not None or alias):
        raise InvalidError("tm.model() is the service's own model, whose version its rollout decides; name a model to pin a version")
    if version is not None and alias:
        raise InvalidError(f"tm.model({of!r}) has a version and an alias; give one of them")
    chosen = alias or ("champion" if of and version is None else "")
    return ModelNode(_identifier(name or of or "model"), of, version, chosen, timeout_us=timeout_us)


def function(made: Callable[..., Any], *, gives: str | Sequence[str] = (), name: str = "", timeout: str = "") -> FunctionNode:
    """A function as a node of a graph; a bare function stands for it where the defaults do.

    Args:
        made: takes columns by its parameters' names, as arrays: float64 with NaN for null, or texts with None. Row by row: what it says of a row
            may not depend on the others. Returns one array, or a dict of arrays by the names in `gives`.
        gives: the columns that it returns; its name when empty. One that is there already is replaced for the nodes behind it.
        name: of the node; the function's own when empty.
        timeout: how long it may take (`"50ms"`); empty for as long as it needs.
    """
    given = getattr(made, "function", made)  # an on-demand feature
    called = name or getattr(given, "__name__", "")
    _plain_parameters(given, called)
    columns = ((gives,) if isinstance(gives, str) else tuple(gives)) or (_identifier(called),)
    return FunctionNode(_identifier(called), given, columns, parse_duration(timeout) if timeout else 0)


def sequence(*nodes: Any) -> SequenceNode:
    """Nodes one after another: each sees the service's columns and what those before it gave; the last one's answer counts."""
    return SequenceNode(_several("sequence", nodes, 1))


def ensemble(
    *nodes: Any,
    combine: str | Callable[..., Any] = "mean",
    weights: Sequence[float] = (),
    threshold: float = 0.5,
    quorum: int | None = None,
    name: str = "ensemble",
) -> EnsembleNode:
    """All nodes answer the same columns, and their answers become one.

    Args:
        nodes: at least two.
        combine: `mean`; `weighted` by `weights`; `vote`, the share of members whose answer is at least `threshold`; or a function of the members' names
            and of columns, arrays in, array out.
        weights: one a member, 1 together.
        threshold: from where on an answer is a vote.
        quorum: how many must answer at least; the others may fail, and the log says which did. All of them when None.
            `mean`, `weighted` and `vote` are then of those that answered; a function is given NaN.
        name: of the node and the column it gives.
    """
    members = _several("ensemble", nodes, 2)
    if twice := _twice([m.name for m in members]):
        raise InvalidError(f"ensemble {name!r} has two members named {', '.join(twice)}; give one of them name=")
    if callable(combine):
        _plain_parameters(combine, f"the combine function of {name}")
    elif combine not in COMBINES:
        raise InvalidError(f"ensemble {name!r}: combine={combine!r} is none of {', '.join(COMBINES)} and no function")
    if bool(weights) != (combine == "weighted"):
        raise InvalidError(f"ensemble {name!r}: weights= belongs to combine='weighted', and that needs weights; give both or neither")
    given = _weights(f"ensemble {name!r}", weights, len(members)) if weights else ()
    need = len(members) if quorum is None else quorum
    if not 1 <= need <= len(members):
        raise InvalidError(f"ensemble {name!r}: quorum={quorum} is not between 1 and its {len(members)} members")
    how: Any = "function" if callable(combine) else combine
    return EnsembleNode(_identifier(name), members, how, given, float(threshold), combine if callable(combine) else None, need)


def switch(by: str | Callable[..., Any], cases: Any, *, otherwise: Any = None, name: str = "switch") -> SwitchNode:
    """One node answers each row: the one whose case is the condition's value there.

    Args:
        by: a column, or a function of columns that returns an array of booleans, texts or numbers.
        cases: nodes by value; `{True: a, False: b}` is complete.
        otherwise: answers what no case names, nulls included; may be left out only when the cases are True and False.
        name: of the node and the column it gives.
    """
    if not isinstance(cases, dict) or not cases:
        raise InvalidError(f"switch {name!r}: cases are nodes by value, for example {{True: far, False: near}}")
    if wrong := [value for value in cases if not isinstance(value, str | bool | int | float)]:
        raise InvalidError(f"switch {name!r}: a case is a text, a number or a boolean, not {wrong[0]!r}")
    if otherwise is None and set(cases) != {True, False}:
        raise InvalidError(f"switch {name!r} does not say who answers what no case names; add otherwise=")
    if callable(by):
        _plain_parameters(by, f"the condition of {name}")
    elif not isinstance(by, str) or not by:
        raise InvalidError(f"switch {name!r}: by= is a column or a function of columns, not {by!r}")
    made = tuple((value if isinstance(value, str) else float(value), as_node(node)) for value, node in cases.items())
    column, condition = ("", by) if callable(by) else (by, None)
    return SwitchNode(_identifier(name), column, condition, made, None if otherwise is None else as_node(otherwise))


def splitter(*nodes: Any, weights: Sequence[float], by: str = "", name: str = "splitter") -> SplitterNode:
    """One node answers each row, each of them its weight of the entities.

    Args:
        nodes: at least two.
        weights: one a node, 1 together. A node whose weight grows keeps the entities it had when it stands first.
        by: the request column whose value decides, so that an entity stays with its node; the prediction's id when empty.
        name: of the node and the column it gives.
    """
    parts = _several("splitter", nodes, 2)
    return SplitterNode(_identifier(name), parts, _weights(f"splitter {name!r}", weights, len(parts)), by)


def as_node(value: Any) -> Node:
    """What may stand in a graph, as a node: a node, a function of columns, a service for the model that it has live."""
    if isinstance(value, _NODES):
        return value
    if isinstance(value, _Service):
        return model(value)
    if callable(value):
        return function(value)
    said = (
        f"tm.model({value!r}) if that is a registered model"
        if isinstance(value, str)
        else "a function, a service, tm.model(…) or a composition"
    )
    raise InvalidError(f"{value!r} is no node of a graph; write {said}")


def nodes_of(node: Node) -> Iterator[Node]:
    """The node and all inside it, in the order of the definition."""
    yield node
    for inner in () if isinstance(node, Leaf) else node.nodes:
        yield from nodes_of(inner)


def models_of(node: Node) -> list[ModelNode]:
    """The models of a graph, in order."""
    return [found for found in nodes_of(node) if isinstance(found, ModelNode)]


def owned(node: Node) -> ModelNode | None:
    """The node that is the service's own model, if there is one."""
    return next((found for found in models_of(node) if found.owned), None)


def refuse_graph(service: str, graph: Node | None, what: str) -> None:
    """Raise `InvalidError` for what is about one model, where a graph answers."""
    if graph is not None:
        raise InvalidError(f"{service!r} answers by a graph, and {what}; ask for that of the services whose models it composes")


def code_of(made: Callable[..., Any]) -> str:
    """The version of a function: the first 12 digits of the digest of its source, or of its bytecode where there is no source."""
    try:
        text = inspect.getsource(made).encode()
    except (OSError, TypeError):
        code = getattr(made, "__code__", None)
        text = repr(made).encode() if code is None else code.co_code + repr(code.co_consts).encode()
    return digests.of_bytes(text).removeprefix(digests.PREFIX)[:12]


def graph_body(node: Node) -> dict[str, Any]:
    """What a graph means as a JSON value: kinds, names, settings, what models it asks for and which code it calls."""
    if isinstance(node, ModelNode):
        return {"kind": "model", "name": node.name, "model": node.registered, "version": node.wanted, "timeout_us": node.timeout_us}
    if isinstance(node, FunctionNode):
        return {"kind": "function", "name": node.name, "gives": list(node.gives), "code": node.code, "timeout_us": node.timeout_us}
    inner = [graph_body(n) for n in node.nodes]
    if isinstance(node, SequenceNode):
        return {"kind": "sequence", "name": node.name, "nodes": inner}
    called = {} if isinstance(node, SplitterNode) or node.function is None else {"code": code_of(node.function)}
    if isinstance(node, EnsembleNode):
        how = {"combine": node.combine, "weights": list(node.weights), "threshold": node.threshold, "quorum": node.quorum}
        return {"kind": "ensemble", "name": node.name, **how, **called, "nodes": inner}
    if isinstance(node, SwitchNode):
        cases = [value for value, _node in node.cases] + ([] if node.otherwise is None else [None])
        return {"kind": "switch", "name": node.name, "by": node.column or list(node.reads), **called, "cases": cases, "nodes": inner}
    return {"kind": "splitter", "name": node.name, "weights": list(node.weights), "by": node.by, "nodes": inner}


def graph_version(node: Node) -> str:
    """The version of a graph: the first 12 digits of the digest of `graph_body`."""
    return digests.of_json(graph_body(node)).removeprefix(digests.PREFIX)[:12]


def check_graph(service: str, graph: Any, columns: Collection[str], keys: Collection[str]) -> Node:
    """The graph of a service as a node, if it fits.

    Args:
        service: its name, for errors.
        graph: what the definition says.
        columns: the service's columns, which its first nodes see.
        keys: the columns that requests may bring besides.

    Raises:
        InvalidError: two nodes have one name, a node reads what none before it gives, the graph's answer is not one column …
    """
    node = as_node(graph)
    if twice := _twice([n.name for n in nodes_of(node) if not isinstance(n, SequenceNode)]):
        raise InvalidError(f"the graph of {service!r} has two nodes named {', '.join(twice)}; give one of them name=")
    own = [m for m in models_of(node) if m.owned or (m.registered == service and m.wanted == "live")]
    if len(own) > 1:
        raise InvalidError(
            f"the graph of {service!r} names its own model twice; what an ensemble of a model with itself says, the model says"
        )
    _check(service, node, frozenset(columns), frozenset(columns) | frozenset(keys))
    if len(node.gives) != 1:
        raise InvalidError(
            f"the graph of {service!r} ends with {node.name!r}, which gives {', '.join(node.gives)}; an answer is one column, so let a node "
            "that gives one come last"
        )
    return node


def _check(service: str, node: Node, there: frozenset[str], keys: frozenset[str]) -> None:
    """Whether what a node reads is there, and what it gives is not."""
    if isinstance(node, SequenceNode):
        for inner in node.nodes:
            _check(service, inner, there, keys)
            there = there | frozenset(inner.gives)
        return
    if not isinstance(node, FunctionNode) and node.name in there:
        raise InvalidError(f"node {node.name!r} of {service!r} gives a column that is there already; give it another name=")
    if isinstance(node, Leaf):
        _reads(service, f"node {node.name!r}", node.reads, there)
        return
    if isinstance(node, SplitterNode) and node.by and node.by not in keys:
        raise InvalidError(f"splitter {node.name!r} of {service!r} cannot split by {node.by!r}; requests have {', '.join(sorted(keys))}")
    if isinstance(node, SwitchNode):
        _reads(service, f"the condition of {node.name!r}", node.reads, there)
    for inner in node.nodes:
        _check(service, inner, there, keys)
        if len(inner.gives) != 1:
            raise InvalidError(
                f"{inner.name!r} in {node.name!r} of {service!r} gives {', '.join(inner.gives)}; there a node gives one column, so let one "
                "that does follow it in a tm.sequence"
            )
    if isinstance(node, EnsembleNode) and node.function is not None:
        members = frozenset(inner.gives[0] for inner in node.nodes)
        _reads(service, f"the combine function of {node.name!r}", node.reads, there | members)


def _reads(service: str, who: str, wanted: Collection[str], there: frozenset[str]) -> None:
    if missing := [name for name in wanted if name not in there]:
        raise InvalidError(
            f"{who} in the graph of {service!r} reads {', '.join(missing)}, which neither the service's features nor a node before it give; "
            f"there is {', '.join(sorted(there))}. Add what is missing to features=, or let a node give it"
        )


def _several(kind: str, nodes: Sequence[Any], least: int) -> tuple[Node, ...]:
    if len(nodes) < least:
        raise InvalidError(f"tm.{kind} takes {'a node' if least == 1 else 'two nodes'} at least, not {len(nodes)}")
    return tuple(as_node(node) for node in nodes)


def _weights(whose: str, weights: Sequence[float], n: int) -> tuple[float, ...]:
    made = tuple(float(w) for w in weights)
    if len(made) != n:
        raise InvalidError(f"{whose} has {len(made)} weights for {n} nodes; give one a node")
    if any(w < 0 for w in made) or abs(sum(made) - 1) > _TOLERANCE:
        raise InvalidError(f"the weights of {whose} are {', '.join(f'{w:g}' for w in made)}; they must be at least 0 and 1 together")
    return made


def _identifier(name: str) -> str:
    made = name.replace("-", "_")
    if not _IDENTIFIER.fullmatch(made):
        raise InvalidError(
            f"{name!r} cannot name a node: a column bears that name, so use lower case letters, digits and '_'; give it name="
        )
    return made


def _plain_parameters(made: Callable[..., Any], called: str) -> None:
    kinds = {p.kind for p in inspect.signature(made).parameters.values()}
    if not kinds or kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}:
        raise InvalidError(
            f"{called or 'a function of a graph'} must name the columns that it reads as its parameters, at least one and no * among them"
        )


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})

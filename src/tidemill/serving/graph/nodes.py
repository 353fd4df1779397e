"""The nodes of a graph, ready to run: what a definition says, bound to models in memory.

Each row is answered as if it were alone, however many stand beside it: that keeps values equal online, in any batch, and offline. So when a member of an
ensemble fails that may fail, the rows are halved until it is known which of them it fails on.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.graphs import EnsembleNode, FunctionNode, ModelNode, SplitterNode, SwitchNode
from tidemill.core.instants import SECOND_US
from tidemill.serving.graph.frame import Array, Frame, Places, column_of
from tidemill.serving.graph.patience import Patience, TooLate
from tidemill.serving.graph.threads import Together
from tidemill.serving.node_errors import FAILURES, NodeError, NodeTimeoutError, NodeUnavailableError
from tidemill.serving.ports import LoadedModel, Visit
from tidemill.serving.sticky import share_of

logger = logging.getLogger(__name__)
Visits = list[tuple[Visit, Places | None]]


class Spent(NamedTuple):
    """One call of a node, by the stopwatch `perf_counter_ns`. `state`: empty, or how it failed."""

    node: str
    kind: str
    version: str
    start: int
    end: int
    rows: int
    state: str = ""


@dataclass(slots=True)
class Walk:
    """One way through the graph: whose keys rows have, and what was spent where. `said`, where somebody asks: what each node gave."""

    keys: Callable[[str], Sequence[str]]
    spent: list[Spent] = field(default_factory=list)
    said: dict[str, tuple[Array, ...]] | None = None

    def apart(self) -> Walk:
        """One that somebody else goes, at the same time."""
        return Walk(self.keys, [], None if self.said is None else {})

    def joined(self, other: Walk) -> None:
        """Take over what was spent and said there."""
        self.spent += other.spent
        if self.said is not None and other.said is not None:
            self.said |= other.said


class Answer(NamedTuple):
    """What a node gave: a column for each name, and who was asked for which rows."""

    columns: tuple[Array, ...]
    visits: Visits


class Bound(ABC):
    """A node that can run."""

    gives: tuple[str, ...]

    @abstractmethod
    def run(self, frame: Frame, walk: Walk) -> Answer:
        """Answer rows. Raises one of `FAILURES`, or `InvalidError` when a request's values are of the wrong kind."""


@dataclass(slots=True)
class BoundLeaf(Bound):
    """What a model and a function have in common: they are asked, timed, and fail under their name."""

    service: str
    name: str
    kind: str
    visit: Visit
    patience: Patience
    timeout_us: int
    gives: tuple[str, ...]

    def run(self, frame: Frame, walk: Walk) -> Answer:
        """See `Bound`."""
        ask, args = self._asked(frame)
        started = perf_counter_ns()
        try:
            columns = self._checked(self.patience.call(self.timeout_us, ask, *args), frame.size)
        except Exception as error:
            failure = self._failure(error)
            state = getattr(failure, "state", "failed")
            if not isinstance(failure, InvalidError):
                walk.spent.append(Spent(self.name, self.kind, self.visit.version, started, perf_counter_ns(), frame.size, state))
            raise failure from error
        walk.spent.append(Spent(self.name, self.kind, self.visit.version, started, perf_counter_ns(), frame.size))
        if walk.said is not None:
            walk.said[self.name] = columns
        return Answer(columns, [(self.visit, frame.places)])

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, TooLate):
            return NodeTimeoutError(self.service, self.name, self.timeout_us / SECOND_US)
        if isinstance(error, UnavailableError):
            return NodeUnavailableError(self.service, self.name, str(error))
        return error if isinstance(error, NodeError) else NodeError(self.service, self.name)

    @abstractmethod
    def _asked(self, frame: Frame) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What to call, and with what."""

    @abstractmethod
    def _checked(self, value: Any, size: int) -> tuple[Array, ...]:
        """What it returned, as columns."""


@dataclass(slots=True)
class BoundModel(BoundLeaf):
    """A model. `direct`: takes its inputs from a row of the service's columns, where all of them are there."""

    model: LoadedModel
    direct: Callable[[Sequence[Any]], tuple[Any, ...]] | None

    def _asked(self, frame: Frame) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return frame.scores, (self.model, self.direct)

    def _checked(self, value: Any, size: int) -> tuple[Array, ...]:
        if len(value) != size or not np.isfinite(value).all():
            raise NodeError(self.service, self.name, "it answered with something else than one finite number a row")
        return (value,)

    def _failure(self, error: Exception) -> Exception:
        return error if isinstance(error, InvalidError) else BoundLeaf._failure(self, error)


@dataclass(slots=True)
class BoundFunction(BoundLeaf):
    """A function of columns."""

    function: Callable[..., Any]
    reads: tuple[str, ...]

    def _asked(self, frame: Frame) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, read_only(frame, self.reads)

    def _checked(self, value: Any, size: int) -> tuple[Array, ...]:
        if isinstance(value, Mapping):
            if set(value) != set(self.gives):
                raise NodeError(self.service, self.name, f"it returned {', '.join(map(str, value))} where it gives {', '.join(self.gives)}")
            found: Sequence[Any] = [value[name] for name in self.gives]
        else:
            found = [value]
        if len(found) != len(self.gives):
            raise NodeError(self.service, self.name, f"it returned one array where it gives {', '.join(self.gives)}; return a dict by name")
        try:
            return tuple(column_of(name, one, size) for name, one in zip(self.gives, found, strict=True))
        except ValueError as error:
            raise NodeError(self.service, self.name, str(error)) from error


@dataclass(slots=True)
class BoundNothing(Bound):
    """A model that is not there."""

    service: str
    name: str
    gives: tuple[str, ...]

    def run(self, frame: Frame, walk: Walk) -> Answer:  # noqa: ARG002 - as every node has it
        """See `Bound`."""
        raise NodeUnavailableError(self.service, self.name, "its model is not loaded")


@dataclass(slots=True)
class BoundSequence(Bound):
    """Nodes one after another."""

    nodes: tuple[Bound, ...]
    gives: tuple[str, ...]

    def run(self, frame: Frame, walk: Walk) -> Answer:
        """See `Bound`."""
        visits: Visits = []
        answer = Answer((), visits)
        for node in self.nodes:
            answer = node.run(frame, walk)
            visits += answer.visits
            frame = frame.more(node.gives, answer.columns)
        return Answer(answer.columns, visits)


@dataclass(slots=True)
class BoundComposition(Bound):
    """What an ensemble, a switch and a splitter have in common: nodes inside, and a call of their own that may fail."""

    service: str
    definition: EnsembleNode | SwitchNode | SplitterNode
    nodes: tuple[Bound, ...]
    gives: tuple[str, ...]

    def run(self, frame: Frame, walk: Walk) -> Answer:
        """See `Bound`."""
        started, name, state = perf_counter_ns(), self.definition.name, ""
        try:
            answer = self._run(frame, walk)
            if walk.said is not None:
                walk.said[name] = answer.columns
            return answer
        except (*FAILURES, InvalidError) as error:
            state = getattr(error, "state", "") if getattr(error, "node", "") == name else ""
            raise
        finally:
            walk.spent.append(Spent(name, self._kind, "", started, perf_counter_ns(), frame.size, state))

    @property
    def _kind(self) -> str:
        return type(self.definition).__name__.removesuffix("Node").lower()

    @abstractmethod
    def _run(self, frame: Frame, walk: Walk) -> Answer: ...

    def _called(self, function: Callable[..., Any], arguments: Sequence[Array], size: int) -> Array:
        try:
            return column_of(self.definition.name, function(*arguments), size)
        except ValueError as error:
            reason = str(error) if isinstance(error, InvalidError) or str(error).startswith("it returned") else "the server's log says why"
            raise NodeError(self.service, self.definition.name, reason) from error
        except Exception as error:
            raise NodeError(self.service, self.definition.name) from error

    def _chosen(self, frame: Frame, walk: Walk, chosen: Sequence[tuple[Bound, Places]]) -> Answer:
        """Each node's answers at its own rows."""
        if len(chosen) == 1:
            return chosen[0][0].run(frame, walk)
        parts = [(node.run(frame.pick(places), walk), places) for node, places in chosen]
        texts = any(answer.columns[0].dtype == object for answer, _places in parts)
        out = np.empty(frame.size, dtype=object if texts else np.float64)
        visits: Visits = []
        for answer, places in parts:
            out[places] = answer.columns[0]
            visits += answer.visits
        return Answer((out,), visits)


@dataclass(slots=True)
class BoundSwitch(BoundComposition):
    """One node a row, by a condition."""

    cases: tuple[str | float, ...]
    reads: tuple[str, ...]

    def _run(self, frame: Frame, walk: Walk) -> Answer:
        definition = self.definition
        assert isinstance(definition, SwitchNode)
        values = (
            frame.array(definition.column)
            if definition.function is None
            else self._called(definition.function, read_only(frame, self.reads), frame.size)
        )
        left = np.ones(frame.size, dtype=bool)
        chosen: list[tuple[Bound, Places]] = []
        for case, node in zip(self.cases, self.nodes, strict=False):
            here = left & np.asarray(values == case, dtype=bool) if (values.dtype == object) == isinstance(case, str) else left & False
            if here.any():
                chosen.append((node, np.flatnonzero(here)))
                left &= ~here
        if left.any():
            if definition.otherwise is None:
                raise NodeError(self.service, definition.name, "its condition gave something else than True or False")
            chosen.append((self.nodes[-1], np.flatnonzero(left)))
        return self._chosen(frame, walk, chosen)


@dataclass(slots=True)
class BoundSplitter(BoundComposition):
    """One node a row, by weight."""

    edges: Array

    def _run(self, frame: Frame, walk: Walk) -> Answer:
        definition = self.definition
        assert isinstance(definition, SplitterNode)
        keys = walk.keys(definition.by)
        mine = keys if frame.places is None else [keys[i] for i in frame.places.tolist()]
        salt = f"{self.service}/{definition.name}"
        node = np.searchsorted(self.edges, [share_of(salt, key) for key in mine], side="right")
        node = np.minimum(node, len(self.nodes) - 1)
        return self._chosen(frame, walk, [(self.nodes[i], np.flatnonzero(node == i)) for i in np.unique(node).tolist()])


@dataclass(slots=True)
class BoundEnsemble(BoundComposition):
    """All nodes, and one answer of theirs. Members that wait are asked at once."""

    reads: tuple[str, ...]
    together: Together

    def _run(self, frame: Frame, walk: Walk) -> Answer:
        definition = self.definition
        assert isinstance(definition, EnsembleNode)
        values, visits = [], list[Any]()
        failed = np.zeros((len(self.nodes), frame.size), dtype=bool)
        last: Exception | None = None
        walks = [walk.apart() for _node in self.nodes]
        asked = [partial(self._member, node, frame, walks[i], failed[i]) for i, node in enumerate(self.nodes)]
        try:
            answered = self.together.run(asked)
        finally:
            for gone in walks:
                walk.joined(gone)
        for node, (answer, column, error) in zip(self.nodes, answered, strict=True):
            last = error or last
            if column.dtype == object:
                raise NodeError(self.service, definition.name, f"its member {node.gives[0]!r} gave texts")
            values.append(column)
            visits += answer.visits
        if last is not None and ((~failed).sum(axis=0) < definition.quorum).any():
            raise last
        return Answer((self._combined(definition, frame, values, failed),), visits)

    def _member(self, node: Bound, frame: Frame, walk: Walk, failed: Array) -> tuple[Answer, Array, Exception | None]:
        """What a member answers: who was asked, the column, and why it failed where it did and may."""
        definition = self.definition
        assert isinstance(definition, EnsembleNode)
        if definition.quorum == len(self.nodes):
            answer = node.run(frame, walk)
            return answer, answer.columns[0], None
        column = np.full(frame.size, np.nan)
        answer, error = self._as_far_as_it_goes(node, frame, walk, column, np.arange(frame.size), failed)
        return answer, column, error

    def _as_far_as_it_goes(
        self, node: Bound, frame: Frame, walk: Walk, column: Array, places: Places, failed: Array
    ) -> tuple[Answer, Exception | None]:
        """A member's answers where it has one, put into `column`; elsewhere it is marked as failed. The last failure too."""
        mark = len(walk.spent)
        here = frame if len(places) == frame.size else frame.pick(places)
        try:
            answer = node.run(here, walk)
        except FAILURES as error:
            if len(places) == 1 or not isinstance(error, NodeError):
                failed[places] = True
                extra = {"service": self.service, "node": error.node, "rows": len(places), "reason": str(error.__cause__ or error)}
                logger.warning("node.left_out", extra=extra)
                return Answer((), [(Visit(error.node, "", "", error.state), here.places)]), error
            walk.spent[mark:] = [spent for spent in walk.spent[mark:] if not spent.state]  # they are asked again
            half = len(places) // 2
            halves = [self._as_far_as_it_goes(node, frame, walk, column, part, failed) for part in (places[:half], places[half:])]
            return Answer((), [visit for answer, _error in halves for visit in answer.visits]), halves[1][1] or halves[0][1]
        if answer.columns[0].dtype == object:
            raise NodeError(self.service, self.definition.name, f"its member {node.gives[0]!r} gave texts")
        column[places] = answer.columns[0]
        return answer, None

    def _combined(self, definition: EnsembleNode, frame: Frame, values: Sequence[Array], failed: Array) -> Array:
        """Member by member in their order, so that a row's answer does not depend on its neighbours."""
        if definition.function is not None:
            members = {node.gives[0]: column for node, column in zip(self.nodes, values, strict=True)}
            arguments = [members[name] if name in members else frame.array(name) for name in self.reads]
            return self._called(definition.function, [_locked(a) for a in arguments], frame.size)
        weights = definition.weights if definition.combine == "weighted" else (1.0,) * len(values)
        total, whole = np.zeros(frame.size), np.zeros(frame.size)
        for weight, column, gone in zip(weights, values, failed, strict=True):
            said = (column >= definition.threshold).astype(np.float64) if definition.combine == "vote" else column
            total += np.where(gone, 0.0, weight * said)
            whole += np.where(gone, 0.0, weight)
        if definition.combine == "weighted":
            whole = np.where(failed.any(axis=0), whole, 1.0)
        if (whole == 0).any():
            raise NodeError(self.service, definition.name, "the members that answered have no weight")
        combined: Array = total / whole
        return combined


def read_only(frame: Frame, names: Sequence[str]) -> tuple[Array, ...]:
    """Columns for a function, which must leave them as they are."""
    return tuple(_locked(frame.array(name)) for name in names)


def _locked(values: Array) -> Array:
    view = values.view()
    view.flags.writeable = False
    return view


def leaf_visit(node: ModelNode | FunctionNode, model: str = "", version: int = 0) -> Visit:
    """What a route says of a model's version, or of a function's."""
    return Visit(node.name, node.code if isinstance(node, FunctionNode) else str(version), model)

"""Runs graphs in this process, once per content."""

from __future__ import annotations

import logging
import math
import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tidemill.core import digests
from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError
from tidemill.ledger.store import Ledger, from_json
from tidemill.pipelines import keys, record
from tidemill.pipelines.closure import closure
from tidemill.pipelines.ports import Codec, Graph, Node, Ref, RunResult, Step, StepContext, StepPlan, using
from tidemill.pipelines.record import Earlier, Record
from tidemill.pipelines.storage import Description, Storage
from tidemill.pipelines.trace import refs, replace
from tidemill.versioning.ports import BlobStore

logger = logging.getLogger(__name__)
_UNKNOWN = "sha256:not known before it runs"


class CodeKeeper(Protocol):
    """What this needs of a `Builder` (cicd lies above the stages)."""

    def capture(self, project: Path) -> Any:
        """Describe the project's code as it is now, as a dataclass, and keep what restores it."""
        ...


@dataclass(slots=True)
class _Outputs:
    """Outputs of a run's nodes: where each is kept, and the values that are in memory."""

    storage: Storage
    kept: dict[str, Description] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def description(self, ref: Ref) -> Description:
        """Where a reference's value is kept."""
        whole = self.kept[ref.node]
        return whole if ref.item is None else self.storage.item(whole, ref.item, f"the output of {ref.node!r}")

    def digest(self, ref: Ref) -> str:
        """Digest of a reference's value."""
        return str(self.description(ref)["digest"])

    def value(self, ref: Ref) -> Any:
        """A reference's value; what is not in memory is read once, and only the item that is needed."""
        name = ref.node if ref.item is None else f"{ref.node}\0{ref.item}"
        if ref.item is not None and ref.node in self.values:
            return self.values[ref.node][ref.item]
        if name not in self.values:
            self.values[name] = self.storage.load(self.description(ref), f"the output of {ref.node!r}")
        return self.values[name]


class LocalExecutor:
    """An `Executor` whose steps are function calls in this process, with the cache in the ledger and the values in the blob store."""

    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        codecs: Sequence[Codec],
        clock: Clock,
        resources: Mapping[type, Any],
        builder: CodeKeeper | None = None,
        *,
        project: Path | None = None,
        actor: str = "local",
        cores: int = 1,
    ) -> None:
        self._ledger = ledger
        self._storage = Storage(blobs, codecs)
        self._clock = clock
        self._resources = resources
        self._builder = builder
        self._project = project
        self._actor = actor
        self._cores = cores

    def run(self, graph: Graph, *, run_id: str, cause_id: str, service: str = "", force: Sequence[str] = ()) -> RunResult:
        try:
            return self._run(graph, run_id, cause_id, service, force)
        finally:
            pa.default_memory_pool().release_unused()  # who runs pipelines goes on for months, and a run's tables are large

    def _run(self, graph: Graph, run_id: str, cause_id: str, service: str, force: Sequence[str]) -> RunResult:
        _check(graph)
        started = time.perf_counter()
        row = record.run_row(self._ledger, run_id)
        if row is not None and row.status == "finished":
            ran, cached = record.counts(self._ledger, run_id)
            output = None if row.output is None else self._storage.load(from_json(row.output), f"the output of {run_id}")
            return RunResult(run_id, "finished", output, ran, cached, float(row.wall_s or 0))
        book = Record(self._ledger, run_id, graph, params={k: str(v) for k, v in graph.params.items()})
        book.begin(cause_id=cause_id, service=service, code=self._code(), environment=_environment(graph), at_us=self._clock.now_us())
        outputs = _Outputs(self._storage)
        earlier = book.finished_nodes() if row is not None else {}
        ran = 0
        for node in graph.nodes:
            try:
                ran += self._node(node, graph, book, outputs, earlier, force)
            except Exception as error:  # noqa: BLE001 - the border to users' code: whatever a step raises fails its run
                text = "".join(traceback.format_exception(error)[-12:])[-6000:]
                said = f"step {node.id!r} failed: {type(error).__name__}: {error}"
                wall = time.perf_counter() - started
                book.end("failed", at_us=self._clock.now_us(), wall_s=wall, error=said, failed={node.id: text})
                logger.warning("run.failed", extra={"run": run_id, "node": node.id, "error": said})
                return RunResult(run_id, "failed", None, ran, len(outputs.kept) - ran, wall, said)
        output = replace(graph.output, outputs.value)
        kept = outputs.description(graph.output) if isinstance(graph.output, Ref) else self._storage.store(output, "the pipeline's result")
        wall = time.perf_counter() - started
        book.end("finished", at_us=self._clock.now_us(), wall_s=wall, output=kept)
        return RunResult(run_id, "finished", output, ran, len(graph.nodes) - ran, wall)

    def plan(self, graph: Graph) -> list[StepPlan]:
        _check(graph)
        book, outputs = Record(self._ledger, "plan", graph), _Outputs(self._storage)
        before = record.last_keys(self._ledger, graph.pipeline)
        return [self._plan_node(node, graph, book, outputs, before.get(node.id)) for node in graph.nodes]

    def _plan_node(self, node: Node, graph: Graph, book: Record, outputs: _Outputs, old: Mapping[str, Any] | None) -> StepPlan:
        waits = {name: ref.node for name, value in node.args.items() for ref in refs(value) if ref.node not in outputs.kept}
        if not waits:
            parts = self._parts(node, self._context(node, graph, "plan"), outputs)
            found = None if node.step.reads_world else book.cached(keys.cache_key(parts))
            if found is not None and self._storage.present(found):
                outputs.kept[node.id] = found
                return StepPlan(node.id, node.step.name, "cached", ())
        else:
            parts = keys.key_parts(
                node, lambda ref: outputs.digest(ref) if ref.node in outputs.kept else _UNKNOWN, (old or {}).get("versions") or {}
            )
        sources = {name: ref.node for name, value in node.args.items() for ref in refs(value)}
        because = keys.differences(old, parts, sources) if old else ("it never ran in this pipeline",)
        said = [text for text in because if not any(text.startswith(f"input {name} ") for name in waits)]
        said += [f"input {name}: {source!r} runs first and may change it" for name, source in waits.items()]
        if node.step.reads_world:
            said.append("it reads the outside world without declaring a version, so it is never cached")
        return StepPlan(node.id, node.step.name, "run", tuple(said) or ("its cached output is gone",))

    def _node(
        self,
        node: Node,
        graph: Graph,
        book: Record,
        outputs: _Outputs,
        earlier: Mapping[str, Earlier],
        force: Sequence[str],
    ) -> int:
        """Bring one node's output about; 1 if its function was called."""
        context = self._context(node, graph, book.run_id)
        parts = self._resumed(node, earlier.get(node.id), outputs) or self._parts(node, context, outputs)
        context.key = key = keys.cache_key(parts)
        inputs = {name: outputs.description(ref) for name, value in node.args.items() for ref in refs(value)}
        context.digests = {name: outputs.digest(value) for name, value in node.args.items() if isinstance(value, Ref)}
        found = self._find(node, key, book, earlier, force)
        if found is None:
            book.node_started(node, key, parts, self._clock.now_us())
            found = self._call(node, context, book, outputs)
        elif node.id not in earlier or earlier[node.id].key != key:
            if found.get("metrics"):
                self._ledger.log_metrics(book.run_id, [(n, s, float(v)) for n, s, v in found["metrics"]], at_us=self._clock.now_us())
            book.node_cached(node, key, parts, found, self._clock.now_us())
        ran = int(node.id in outputs.values)
        outputs.kept[node.id] = found
        book.note(node, found, inputs, _parameters(node, inputs))
        return ran

    def _find(self, node: Node, key: str, book: Record, earlier: Mapping[str, Earlier], force: Sequence[str]) -> dict[str, Any] | None:
        mine = earlier.get(node.id)
        if mine is not None and mine.key == key and self._storage.present(mine.output):
            return mine.output
        if node.step.reads_world or node.step.name in force:
            return None
        found = book.cached(key)
        return found if found is not None and self._storage.present(found) else None

    def _call(self, node: Node, context: StepContext, book: Record, outputs: _Outputs) -> dict[str, Any]:
        """Call the step's function, keep what it returns and record it."""
        logged = _Metrics(self._ledger, book.run_id, self._clock)
        context.log_metric = logged
        context.args = {name: replace(value, outputs.value) for name, value in node.args.items()}
        started = time.perf_counter()
        with using(context):
            value = _attempt(node.step, context.args)
        wall_ms = (time.perf_counter() - started) * 1000
        kept = self._storage.store(value, f"the result of step {node.step.name!r}")
        if logged.values:
            logged.flush()
            kept["metrics"] = [[n, s, v if math.isfinite(v) else repr(v)] for n, s, v in logged.values[-2000:]]
        book.node_finished(node, context.key, kept, wall_ms, self._clock.now_us())
        outputs.values[node.id] = value
        return kept

    def _resumed(self, node: Node, earlier: Earlier | None, outputs: _Outputs) -> dict[str, Any] | None:
        """The key's parts of a node that an earlier attempt at the run finished: a run goes on in the world it read, whatever came since."""
        if earlier is None or not self._storage.present(earlier.output):
            return None
        parts = keys.key_parts(node, outputs.digest, earlier.versions)
        return parts if keys.cache_key(parts) == earlier.key else None

    def _parts(self, node: Node, context: StepContext, outputs: _Outputs) -> dict[str, Any]:
        versions: Mapping[str, Any] = {}
        if node.step.versions is not None:
            wanted = _wanted(node.step.versions, node.args)
            with using(context):
                versions = node.step.versions(**{name: replace(value, outputs.value) for name, value in wanted.items()})
        return keys.key_parts(node, outputs.digest, versions)

    def _context(self, node: Node, graph: Graph, run_id: str) -> StepContext:
        seed = int(digests.of_json([graph.pipeline, node.id])[7:14], 16)
        return StepContext(run_id, node.id, seed, self._clock, self._resources, actor=self._actor, cores=self._cores)

    def _code(self) -> dict[str, Any]:
        if self._builder is None or self._project is None:
            return {}
        return asdict(self._builder.capture(self._project))


class _Metrics:
    """`log_metric` of a running step: values are written twice a second at most, and all of them when the step ends."""

    def __init__(self, ledger: Ledger, run_id: str, clock: Clock) -> None:
        self.values: list[tuple[str, int, float]] = []
        self._ledger, self._run_id, self._clock = ledger, run_id, clock
        self._written, self._since = 0, time.perf_counter()

    def __call__(self, name: str, value: float, step: int = 0) -> None:
        self.values.append((name, int(step), float(value)))
        if time.perf_counter() - self._since > 0.5:
            self.flush()

    def flush(self) -> None:
        """Write what was not written yet."""
        if len(self.values) > self._written:
            self._ledger.log_metrics(self._run_id, self.values[self._written :], at_us=self._clock.now_us())
        self._written, self._since = len(self.values), time.perf_counter()


def _attempt(step: Step, args: Mapping[str, Any]) -> Any:
    for left in range(step.retries, -1, -1):
        try:
            return step.function(**args)
        except Exception as error:
            if not left:
                raise
            logger.warning("step.retried", extra={"step": step.name, "left": left, "error": str(error)})
    raise InvalidError(f"step {step.name!r} has {step.retries} retries; it must be 0 or more")


def _check(graph: Graph) -> None:
    """Refuse graphs with two nodes of one name, or with a node that needs one that does not come before it (a cycle, for one)."""
    before: set[str] = set()
    for node in graph.nodes:
        if node.id in before:
            raise InvalidError(f"pipeline {graph.pipeline!r} has two nodes named {node.id!r}; give them different names")
        if missing := sorted({ref.node for ref in refs(list(node.args.values()))} - before):
            raise InvalidError(
                f"node {node.id!r} of pipeline {graph.pipeline!r} needs {', '.join(map(repr, missing))}, which does not come before it: "
                "there is a cycle, or the order of the nodes is wrong"
            )
        before.add(node.id)
    if missing := sorted({ref.node for ref in refs(graph.output)} - before):
        raise InvalidError(f"pipeline {graph.pipeline!r} returns the output of {', '.join(missing)}, which is none of its nodes")


def _wanted(versions: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that a `versions` function names."""
    code = versions.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return {name: args[name] for name in names if name in args}


def _parameters(node: Node, inputs: Mapping[str, Description]) -> dict[str, Any]:
    """Constants and small scalar inputs of a node, as they are listed with the run."""
    given = {name: kept["value"] for name, kept in inputs.items() if isinstance(kept.get("value"), str | int | float | bool)}
    return {name: value for name, value in node.args.items() if next(refs(value), None) is None} | given


def _environment(graph: Graph) -> dict[str, Any]:
    packages: dict[str, str] = {}
    for node in graph.nodes:
        packages |= closure(node.step.function)["packages"]
        for value in node.args.values():
            if isinstance(value, Step):
                packages |= closure(value)["packages"]
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": dict(sorted(packages.items()))}

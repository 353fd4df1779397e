"""What people do by hand: train, run a pipeline, judge, start a rollout. Recorded like everything else, with `manual` as the cause."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.core.definitions import Service
from tidemill.core.errors import ConflictError, InvalidError, RefusedError
from tidemill.core.instants import format_instant
from tidemill.ledger import schema
from tidemill.ledger.store import emit, insert_once, to_json
from tidemill.pipelines.ports import Graph, RunResult
from tidemill.retraining import decisions, reconcile, transitions
from tidemill.retraining.ports import Cause, Decision, Loop
from tidemill.retraining.triggers import cause_of


def train(loop: Loop, service: Service, *, until_us: int | None = None, reason: str = "", actor: str) -> RunResult:
    """Run the service's pipeline now, with what was known by `until_us` (default now); gate and rollout are the loop's.

    Raises:
        InvalidError: the service has no pipeline, or `until_us` is still to come.
        ConflictError: another process trains the service; nothing was recorded.
    """
    now_us = loop.clock.now_us()
    if service.pipeline is None:
        raise InvalidError(f"service {service.name!r} has no pipeline; give it one with pipeline= in definitions.py")
    if until_us is not None and until_us > now_us:
        raise InvalidError(f"{format_instant(until_us)} is still to come; a training set cannot know it")
    with loop.alone(service.name) as mine:
        if not mine:
            raise ConflictError(
                f"a training of {service.name!r} is under way; `tidemill runs` shows it. Wait for its end, then train again"
            )
        until = now_us if until_us is None else until_us
        cause = _cause(loop, service.name, {"reason": reason or "by hand", "until_us": until, "actor": actor}, actor)
        graph = service.pipeline.graph(until=until)
        return loop.executor.run(graph, run_id=str(cause.run_id), cause_id=cause.id, service=service.name)


def run(loop: Loop, graph: Graph, *, force: Sequence[str] = (), actor: str) -> RunResult:
    """Run any pipeline's graph; steps named in `force` run even when they are cached."""
    cause = _cause(loop, "", {"reason": "by hand", "pipeline": graph.pipeline, "actor": actor}, actor)
    return loop.executor.run(graph, run_id=str(cause.run_id), cause_id=cause.id, force=force)


def _cause(loop: Loop, service: str, evidence: dict[str, object], actor: str) -> Cause:
    cause = cause_of(service, "manual", loop.clock.now_us(), evidence)
    with loop.ledger.write() as db:
        values = {"id": cause.id, "kind": cause.kind, "service": service, "at_us": cause.at_us, "run_id": cause.run_id}
        insert_once(db, schema.cause, values | {"evidence": to_json(evidence)})
        emit(db, "cause", service or "pipeline", {"cause": cause.id, "kind": "manual"}, at_us=cause.at_us, actor=actor)
    return cause


def judge(loop: Loop, service: Service, version: int) -> Decision:
    """Compare a version with the champion and record the decision; judging the same two again returns the first decision."""
    reconcile.apply(loop, service, reconcile.Action("judge", f"judge:{version}", version=version), loop.clock.now_us())
    return verdict(loop, service, version)


def verdict(loop: Loop, service: Service, version: int) -> Decision:
    """The newest gate decision about a version. Raises `ConflictError` when it has not been judged yet."""
    subject = f"{service.name}/{version}"
    found = [d for d in decisions.listing(loop.ledger, service=service.name, kind="gate", limit=1000) if d.subject == subject]
    if not found:
        raise ConflictError(f"version {version} of {service.name!r} has not been judged; run `tidemill gate {version}` first")
    return found[0]


def start(loop: Loop, service: Service, version: int) -> None:
    """Begin the rollout of a version that passed the gate: in shadow, or live at once when nothing is live yet.

    Raises:
        RefusedError: the gate did not let it through.
        ConflictError: it was not judged, or another rollout is under way.
    """
    passed = verdict(loop, service, version)
    if passed.outcome != "promote":
        raise RefusedError(
            f"the gate said {passed.outcome} to version {version} ({passed.evidence.get('reason', '')}); `tidemill deploy {version} --now` overrules it"
        )
    with loop.ledger.read() as db:
        live, under_way = transitions.read_live(db, service.name), transitions.read_candidates(db, service.name)
    if under_way:
        raise ConflictError(f"version {under_way[0].version} is being rolled out; wait for its end, or end it with `tidemill rollout back`")
    action = reconcile.Action("start" if live else "deploy", f"start:{passed.id}", version=version, decision=passed)
    reconcile.apply(loop, service, action, loop.clock.now_us())

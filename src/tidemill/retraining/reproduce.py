"""Run a recorded run again, from its code and its data, and say how equal it came out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tidemill.cicd.ports import CodeState
from tidemill.core import ids
from tidemill.core.errors import InvalidError, not_found
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, insert_once, to_json
from tidemill.pipelines.ports import Graph
from tidemill.retraining.ports import Loop

TOLERANCE = 1e-3
"""Evaluation metrics that differ by less than this (absolute) count as statistically equal when the digests differ."""


def reproduce(loop: Loop, run_id: str) -> dict[str, Any]:
    """Rerun `run_id` with every step forced and compare each step's output with the recorded one.

    The code is the recorded commit and patch, checked out beside the project when it is not what is there now. Steps that
    register are left out, so a reproduction never makes a model version.

    Returns:
        `verdict`: `bit-equal`, `statistically equal` or `differs`; `first`: the first step that differs and which of its inputs
        does; `steps`: recorded and new digest of each step.

    Raises:
        NotFoundError: no such run, or its commit is gone.
        InvalidError: the run did not finish.
    """
    run, steps = _recorded(loop.ledger, run_id)
    if run["status"] != "finished":
        raise InvalidError(f"run {run_id} is {run['status']}; only a finished run can be reproduced")
    code = from_json(run["code"]) or {}
    state = CodeState(code.get("commit", ""), code.get("patch", ""), bool(code.get("dirty")))
    if not (state.commit or state.patch) or loop.builder.capture(loop.project) == state:
        report = _rerun(loop.elsewhere(loop.project, _snapshots(steps)), run, steps)
    else:
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
            loop.builder.checkout(loop.project, state, Path(folder))
            report = _rerun(loop.elsewhere(Path(folder), _snapshots(steps)), run, steps)
    report |= {"run": run_id, "code": {"commit": state.commit, "patch": state.patch, "dirty": state.dirty}}
    with loop.ledger.write() as db:
        emit(
            db,
            "run.reproduced",
            run_id,
            {"verdict": report["verdict"], "first": report["first"]},
            at_us=loop.clock.now_us(),
            actor=loop.actor,
        )
    return report


def _recorded(ledger: Ledger, run_id: str) -> tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]:
    run, step = schema.run, schema.step_run
    with ledger.read() as db:
        found = db.execute(sa.select(run).where(run.c.id == run_id)).mappings().first()
        if found is None:
            raise not_found("run", run_id, db.execute(sa.select(run.c.id).order_by(run.c.started_us.desc()).limit(500)).scalars())
        rows = db.execute(sa.select(step).where(step.c.run_id == run_id)).mappings().all()
    return dict(found), {str(row["node"]): dict(row) for row in rows}


def _rerun(loop: Loop, run: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    graph = _without_registering(loop.definitions.pipelines[run["pipeline"]].graph(**from_json(run["params"])))
    again_id = ids.derive("run", "reproduce", run["id"], loop.clock.now_us())
    cause_id = ids.derive("cause", "reproduce", run["id"], loop.clock.now_us())
    with loop.ledger.write() as db:
        evidence = to_json({"reproduces": run["id"]})
        insert_once(
            db,
            schema.cause,
            {"id": cause_id, "kind": "manual", "service": "", "at_us": loop.clock.now_us(), "evidence": evidence, "run_id": again_id},
        )
    result = loop.executor.run(graph, run_id=again_id, cause_id=cause_id, force=sorted({node.step.name for node in graph.nodes}))
    if result.status != "finished":
        return {
            "verdict": "differs",
            "first": {"step": "", "because": [f"the rerun failed: {result.error}"]},
            "steps": [],
            "again": again_id,
        }
    _, after = _recorded(loop.ledger, again_id)
    return {**_compare(graph, before, after), "again": again_id}


def _snapshots(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The snapshots that the recorded steps read, by table; training runs keep theirs by a tag."""
    out: dict[str, int] = {}
    for row in steps.values():
        read = ((from_json(row["key_parts"]) or {}).get("versions") or {}).get("tables") or {}
        out |= {name: int(snapshot) for name, snapshot in read.items() if snapshot is not None}
    return out


def _without_registering(graph: Graph) -> Graph:
    return replace(graph, nodes=tuple(node for node in graph.nodes if node.step.name != "register"), output=None)


def _compare(graph: Graph, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None
    for node in graph.nodes:
        old, new = (from_json((side.get(node.id) or {}).get("output")) or {} for side in (before, after))
        equal = bool(old) and old.get("digest") == new.get("digest")
        rows.append({"node": node.id, "recorded": old.get("digest"), "again": new.get("digest"), "equal": equal})
        if not equal and first is None:
            first = {"step": node.id, "because": _inputs_that_differ(before.get(node.id, {}), after.get(node.id, {}))}
    if first is None:
        return {"verdict": "bit-equal", "first": None, "steps": rows}
    equal_metrics = not first["because"] and _metrics_agree(graph, before, after)
    return {"verdict": "statistically equal" if equal_metrics else "differs", "first": first, "steps": rows}


def _inputs_that_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The parts of the cache key that are not the same, each by its path; none means that the step itself is not deterministic."""
    return sorted(_differing("", from_json(old.get("key_parts")) or {}, from_json(new.get("key_parts")) or {}))


def _differing(path: str, was: Any, now: Any) -> list[str]:
    if was == now:
        return []
    if isinstance(was, dict) and isinstance(now, dict):
        return [text for name in {*was, *now} for text in _differing(f"{path}.{name}".lstrip("."), was.get(name), now.get(name))]
    return [f"{path}: {_short(was)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _metrics_agree(graph: Graph, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every evaluation came out within `TOLERANCE`."""
    seen = False
    for node in graph.nodes:
        if node.step.name != "evaluate":
            continue
        old, new = (_numbers(from_json((side.get(node.id) or {}).get("output"))) for side in (before, after))
        seen = bool(old)
        if old.keys() != new.keys() or any(abs(old[k] - new[k]) > TOLERANCE for k in old):
            return False
    return seen


def _numbers(output: Any) -> dict[str, float]:
    value = (output or {}).get("value")
    return {k: float(v) for k, v in value.items() if isinstance(v, int | float)} if isinstance(value, dict) else {}

"""What the contract does not say of the embedded executor."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import InvalidError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, from_json
from tidemill.pipelines import pipeline, step
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.pipelines.ports import StepContext, current
from tidemill.versioning.embedded import FileBlobStore


def note(name: str) -> None:
    logging.getLogger(name).debug("called")
    _calls().append(name)


def _calls() -> list[str]:
    return getattr(logging, "calls_of_this_test", [])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls are noted where the closure does not look."""
    found: list[str] = []
    monkeypatch.setattr(logging, "calls_of_this_test", found, raising=False)
    return found


@dataclass
class Keeper:
    """A `Builder` that knows one state."""

    commit: str = "abc"
    dirty: bool = False

    def capture(self, project: Path) -> "Keeper":
        return self


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "blobs")


@pytest.fixture
def executor(ledger: Ledger, blobs: FileBlobStore, tmp_path: Path) -> LocalExecutor:
    return LocalExecutor(ledger, blobs, default_codecs(), ReplayClock(5), {}, Keeper(), project=tmp_path)


@step
def table(n: int) -> pa.Table:
    note("table")
    return pa.table({"x": list(range(n))})


@step
def size(rows: pa.Table) -> int:
    note("size")
    return int(rows.num_rows)


@pipeline
def count(n: int) -> int:
    found: int = size(table(n))
    return found


def test_a_lost_blob_is_made_again(executor: LocalExecutor, blobs: FileBlobStore, ledger: Ledger, calls: list[str]) -> None:
    executor.run(count.graph(n=3), run_id="r1", cause_id="c")
    with ledger.read() as db:
        text = db.execute(sa.select(schema.step_run.c.output).where(schema.step_run.c.node == "table")).scalar_one()
    blobs.remove([from_json(text)["digest"]])
    calls.clear()
    assert executor.plan(count.graph(n=3))[0].because == ("its cached output is gone",)
    assert executor.run(count.graph(n=3), run_id="r2", cause_id="c").output == 3
    assert calls == ["table"]


def test_a_cached_value_is_only_read_when_it_is_needed(executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.pipelines.codecs import ArrowCodec

    executor.run(count.graph(n=3), run_id="r1", cause_id="c")

    def refuse(*_args: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(ArrowCodec, "load", refuse)
    assert executor.run(count.graph(n=3), run_id="r2", cause_id="c").cached == 2


def test_what_reads_the_world_without_a_version_is_never_cached(executor: LocalExecutor, calls: list[str]) -> None:
    @step(reads_world=True)
    def now() -> int:
        note("now")
        return 1

    @pipeline
    def world() -> int:
        found: int = now()
        return found

    for i in range(2):
        executor.run(world.graph(), run_id=f"r{i}", cause_id="c")
    assert calls == ["now", "now"]
    assert "outside world" in executor.plan(world.graph())[0].because[-1]
    executor.run(world.graph(), run_id="r1", cause_id="c")
    assert len(calls) == 2


def test_declared_versions_are_part_of_the_key(executor: LocalExecutor, calls: list[str]) -> None:
    found = {"page": 1}

    def versions(name: str) -> Mapping[str, Any]:
        assert current().node == "fetch"
        return {name: found["page"]}

    @step(versions=versions)
    def fetch(name: str, times: int = 1) -> str:
        note("fetch")
        return name * times

    @pipeline
    def pages() -> str:
        text: str = fetch("page")
        return text

    executor.run(pages.graph(), run_id="r1", cause_id="c")
    executor.run(pages.graph(), run_id="r2", cause_id="c")
    assert calls == ["fetch"]
    found["page"] = 2
    assert executor.plan(pages.graph())[0].because == ("page: 1 → 2",)
    executor.run(pages.graph(), run_id="r3", cause_id="c")
    assert calls == ["fetch", "fetch"]


def test_errors_are_tried_again_as_often_as_was_asked(executor: LocalExecutor, calls: list[str]) -> None:
    @step(retries=2)
    def shaky(times: int) -> int:
        note("shaky")
        if len(_calls()) <= times:
            raise OSError("not yet")
        return len(_calls())

    @pipeline
    def shake(times: int) -> int:
        found: int = shaky(times)
        return found

    assert executor.run(shake.graph(times=2), run_id="r1", cause_id="c").output == 3
    calls.clear()
    failed = executor.run(shake.graph(times=3), run_id="r2", cause_id="c")
    assert (failed.status, len(calls)) == ("failed", 3)


def test_metrics_of_a_cached_step_are_the_runs_too(executor: LocalExecutor, ledger: Ledger) -> None:
    @step
    def logs() -> int:
        for i in range(3):
            current().log_metric("loss", 1.0 / (i + 1), i)
        current().log_metric("odd", float("nan"), 0)
        return 1

    @pipeline
    def logging_pipeline() -> int:
        found: int = logs()
        return found

    for run in ("r1", "r2"):
        executor.run(logging_pipeline.graph(), run_id=run, cause_id="c")
    metric = schema.metric.c
    with ledger.read() as db:
        rows = [
            list(
                db.execute(sa.select(metric.name, metric.step, metric.value).where(metric.run_id == run).order_by(metric.name, metric.step))
            )
            for run in ("r1", "r2")
        ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


def test_code_state_is_recorded(executor: LocalExecutor, ledger: Ledger) -> None:
    executor.run(count.graph(n=1), run_id="r1", cause_id="c")
    with ledger.read() as db:
        row = db.execute(sa.select(schema.run)).one()
    assert from_json(row.code) == {"commit": "abc", "dirty": False}
    assert "pyarrow" in from_json(row.environment)["packages"]


def test_a_seed_belongs_to_the_node(executor: LocalExecutor) -> None:
    @step
    def seed(n: int) -> int:
        return current().seed

    @pipeline
    def seeds() -> Any:
        return [seed(1), seed(2), {"third": seed(1)}]

    first = executor.run(seeds.graph(), run_id="r1", cause_id="c")
    assert len({first.output[0], first.output[1]}) == 2
    assert executor.run(seeds.graph(), run_id="r2", cause_id="c").output == first.output
    assert executor.run(seeds.graph(), run_id="r1", cause_id="c").output == first.output


def test_steps_are_functions_outside_of_pipelines(calls: list[str]) -> None:
    assert count(4) == 4
    assert size(pa.table({"x": [1]})) == 1
    with pytest.raises(InvalidError, match="no step is running"):
        current()


def test_a_missing_resource_says_so() -> None:
    context = StepContext("r", "n", 0, ReplayClock(0))
    with pytest.raises(InvalidError, match="needs a Ledger"):
        context.resource(Ledger)


def test_star_arguments_cannot_be_told_apart() -> None:
    with pytest.raises(InvalidError, match=r"\*args"):

        @step
        def many(*rows: int) -> int:
            return len(rows)

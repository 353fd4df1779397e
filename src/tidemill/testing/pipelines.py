"""What every `Executor` must keep."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

from tidemill.core.errors import InvalidError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, from_json
from tidemill.pipelines.ports import Executor, Graph, Node, Ref
from tidemill.testing.contract import Contract, keeps

_PROJECT = '''
from pathlib import Path
from tidemill.pipelines import pipeline, step

OFFSET = 1

class Killed(BaseException):
    """Like kill -9: nothing in the executor may handle it."""

def note(book, text):
    file = Path(book)
    file.write_text(file.read_text() + text + "\\n" if file.exists() else text + "\\n")

def helper(n):
    """Adds."""
    return n + OFFSET

def even(n):
    return n - n % 2

@step
def first(n: int, book: str):
    note(book, "first")
    return helper(n)

@step
def second(n: int, book: str):
    note(book, "second")
    return {"half": even(n) / 2, "whole": n}

@step
def third(half: float, book: str, rate: float = 0.1):
    note(book, "third")
    if Path(book + ".kill").exists():
        raise Killed
    if Path(book + ".fail").exists():
        raise ValueError("no luck")
    return [half, rate]

@pipeline
def train(n: int, book: str, rate: float = 0.1):
    parts = second(first(n, book), book)
    return third(parts["half"], book, rate)
'''


class Project:
    """A project of three steps whose source the tests change; each call of a step is noted in `book`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.book = folder / "book"
        self.change("", "")

    def change(self, old: str, new: str) -> ModuleType:
        """Edit the source and import it anew."""
        path = self.folder / "steps_of_contract.py"
        text = path.read_text().replace(old, new) if old else _PROJECT
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("steps_of_contract", path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        sys.modules["steps_of_contract"] = self.module
        exec(compile(text, str(path), "exec", dont_inherit=True), vars(self.module))  # no bytecode file: two edits may fall into one second
        return self.module

    def graph(self, n: int = 4, rate: float = 0.1) -> Graph:
        """The pipeline laid out."""
        graph: Graph = self.module.train.graph(n=n, book=str(self.book), rate=rate)
        return graph

    def calls(self) -> list[str]:
        """Steps called since the last time."""
        found = self.book.read_text().split() if self.book.exists() else []
        self.book.unlink(missing_ok=True)
        return found


class ExecutorContract(Contract):
    """Supply `executor`, an executor over `ledger`."""

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        """The ledger that the executor must use."""
        return Ledger(f"sqlite:///{tmp_path}/ledger.db")

    @pytest.fixture
    def project(self, tmp_path: Path) -> Project:
        """Steps to run."""
        folder = tmp_path / "project"
        folder.mkdir()
        return Project(folder)

    @keeps("cached")
    def test_a_node_runs_once_per_key(self, executor: Executor, project: Project) -> None:
        first = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        assert (first.status, first.output, first.ran, first.cached) == ("finished", [2.0, 0.1], 3, 0)
        assert project.calls() == ["first", "second", "third"]
        again = executor.run(project.graph(), run_id="run-2", cause_id="cause-1")
        assert (again.status, again.output, again.ran, again.cached) == ("finished", [2.0, 0.1], 0, 3)
        assert project.calls() == []

    @keeps("resumable")
    def test_a_finished_run_answers_without_running(self, executor: Executor, project: Project) -> None:
        first = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        project.calls()
        again = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        assert (again.output, again.ran, again.cached) == (first.output, first.ran, first.cached)
        assert project.calls() == []

    @keeps("minimal")
    def test_a_parameter_reruns_what_reads_it(self, executor: Executor, project: Project) -> None:
        executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        project.calls()
        plans = {plan.node: plan for plan in executor.plan(project.graph(rate=0.2))}
        assert (plans["second"].state, plans["third"].state) == ("cached", "run")
        assert plans["third"].because == ("parameter rate 0.1 → 0.2",)
        assert executor.run(project.graph(rate=0.2), run_id="run-2", cause_id="cause-1").output == [2.0, 0.2]
        assert project.calls() == ["third"]

    @keeps("minimal", "cached")
    def test_a_changed_helper_reruns_exactly_the_steps_that_reach_it(self, executor: Executor, project: Project) -> None:
        executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        project.calls()
        project.change("return n - n % 2", "return n - n % 2 + 0")
        plans = {plan.node: plan for plan in executor.plan(project.graph())}
        assert plans["first"].state == "cached"
        assert plans["second"].because == ("code: helper `even` in steps_of_contract.py changed",)
        executor.run(project.graph(), run_id="run-2", cause_id="cause-1")
        assert project.calls() == ["second"]  # its output is equal, so `third` is cut off

    @keeps("cached")
    def test_a_changed_constant_counts_and_a_comment_does_not(self, executor: Executor, project: Project) -> None:
        executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        project.calls()
        project.change('"""Adds."""', '"""Adds a number."""  # and says so\n')
        executor.run(project.graph(), run_id="run-2", cause_id="cause-1")
        assert project.calls() == []
        project.change("OFFSET = 1", "OFFSET = 3")
        assert "constant `OFFSET`" in executor.plan(project.graph())[0].because[0]
        assert executor.run(project.graph(), run_id="run-3", cause_id="cause-1").output == [3.0, 0.1]

    @keeps("minimal")
    def test_equal_outputs_cut_the_rest_off(self, executor: Executor, project: Project) -> None:
        executor.run(project.graph(n=4), run_id="run-1", cause_id="cause-1")
        project.calls()
        executor.run(project.graph(n=3), run_id="run-2", cause_id="cause-1")  # another number, and the same half of it
        assert project.calls() == ["first", "second"]

    @keeps("resumable", "recorded")
    def test_a_killed_run_goes_on(self, executor: Executor, project: Project, ledger: Ledger) -> None:
        kill = Path(f"{project.book}.kill")
        kill.touch()
        with pytest.raises(project.module.Killed):
            executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        kill.unlink()
        assert project.calls() == ["first", "second", "third"]
        assert _status(ledger, "run-1") == ("running", {"first": "finished", "second": "finished", "third": "running"})
        again = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        assert (again.status, again.output) == ("finished", [2.0, 0.1])
        assert project.calls() == ["third"]
        assert _status(ledger, "run-1") == ("finished", {"first": "finished", "second": "finished", "third": "finished"})

    @keeps("resumable")
    def test_a_killed_run_goes_on_in_the_world_that_it_read(self, executor: Executor, project: Project) -> None:
        world, kill = Path(f"{project.book}.world"), Path(f"{project.book}.kill")
        vars(project.module)["first"] = replace(project.module.first, versions=lambda book: {"rows": Path(f"{book}.world").read_text()})
        world.write_text("as it was")
        kill.touch()
        with pytest.raises(project.module.Killed):
            executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        kill.unlink()
        world.write_text("moved on")
        project.calls()
        assert executor.run(project.graph(), run_id="run-1", cause_id="cause-1").status == "finished"
        assert project.calls() == ["third"]
        executor.run(project.graph(), run_id="run-2", cause_id="cause-1")
        assert project.calls() == ["first"], "another run reads the present one; equal outputs cut the rest off"

    @keeps("failing")
    def test_an_error_ends_the_run_names_the_node_and_keeps_the_rest(self, executor: Executor, project: Project, ledger: Ledger) -> None:
        fail = Path(f"{project.book}.fail")
        fail.touch()
        result = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        assert result.status == "failed"
        assert "'third'" in result.error
        assert "no luck" in result.error
        assert _status(ledger, "run-1") == ("failed", {"first": "finished", "second": "finished", "third": "failed"})
        fail.unlink()
        project.calls()
        assert executor.run(project.graph(), run_id="run-2", cause_id="cause-1").status == "finished"
        assert project.calls() == ["third"]

    def test_force_runs_a_step_again(self, executor: Executor, project: Project) -> None:
        executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        project.calls()
        executor.run(project.graph(), run_id="run-2", cause_id="cause-1", force=["second"])
        assert project.calls() == ["second"]

    @keeps("recorded")
    def test_the_ledger_has_run_nodes_keys_and_parameters(self, executor: Executor, project: Project, ledger: Ledger) -> None:
        executor.run(project.graph(), run_id="run-1", cause_id="cause-1", service="flights")
        with ledger.read() as db:
            run = db.execute(sa.select(schema.run).where(schema.run.c.id == "run-1")).one()
            steps = {row.node: row for row in db.execute(sa.select(schema.step_run).where(schema.step_run.c.run_id == "run-1"))}
            params = dict(map(tuple, db.execute(sa.select(schema.param.c.name, schema.param.c.value))))
        assert (run.pipeline, run.service, run.cause_id) == ("train", "flights", "cause-1")
        assert {"python", "platform", "packages"} <= set(from_json(run.environment))
        assert from_json(run.graph)["edges"] == [["first", "second"], ["second", "third"]]
        assert set(from_json(steps["third"].key_parts)["inputs"]) == {"half"}
        assert from_json(steps["second"].inputs)["n"] == from_json(steps["first"].output)["digest"]
        assert all(row.wall_ms is not None and row.cache_key for row in steps.values())
        assert params["n"] == "4"
        assert params["third.rate"] == "0.1"

    def test_a_graph_with_a_cycle_is_refused(self, executor: Executor, project: Project) -> None:
        step = project.module.first
        nodes = (Node("a", step, {"n": Ref("b"), "book": ""}), Node("b", step, {"n": Ref("a"), "book": ""}))
        with pytest.raises(InvalidError, match="cycle"):
            executor.run(Graph("loop", nodes, Ref("b"), {}), run_id="run-1", cause_id="cause-1")

    def test_a_value_that_cannot_be_kept_fails_with_advice(self, executor: Executor, project: Project) -> None:
        project.change("return [half, rate]", "return note")
        result = executor.run(project.graph(), run_id="run-1", cause_id="cause-1")
        assert result.status == "failed"
        assert "step 'third'" in result.error
        assert "return numbers" in result.error


def _status(ledger: Ledger, run_id: str) -> tuple[str, dict[str, str]]:
    step = schema.step_run.c
    with ledger.read() as db:
        run = db.execute(sa.select(schema.run.c.status).where(schema.run.c.id == run_id)).scalar_one()
        nodes = dict(map(tuple, db.execute(sa.select(step.node, step.status).where(step.run_id == run_id))))
    return run, nodes

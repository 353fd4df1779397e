"""Ports are small, promise something, and each promise is checked by a suite that every implementation runs."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

from tidemill.testing.contract import Contract, checked, keeps

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "Codec",
    "Evaluator",
    "FeatureReader",
    "FlavorReader",
    "LoadedModel",
    "Metrics",
    "MetricSource",
    "Profile",
    "Served",
    "VersionedReader",
}
"""Protocols that are no role of a system: values with behaviour, hooks, and halves of another port."""
LATER = {"Compiler", "Deliverer"}
"""Ports without an implementation yet; their adapters come with their contracts."""
SUITE = re.compile(r"Guarantees, each checked by `tidemill\.testing\.(\w+)\.(\w+)")


def promised(promiser: ast.ClassDef) -> list[str]:
    """Names of the guarantees that a docstring lists: `name: text`, one a line, indented below the word Guarantees."""
    _, _, rest = (ast.get_docstring(promiser) or "").partition("\nGuarantees")
    lines = itertools.takewhile(lambda line: line.startswith("    "), rest.splitlines()[1:])
    return [line.strip().partition(": ")[0] for line in lines]


def protocols() -> list[tuple[str, ast.ClassDef]]:
    return [
        (path.parent.name, node)
        for path in sorted((ROOT / "src" / "tidemill").glob("*/ports.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    ]


def promisers() -> list[ast.ClassDef]:
    """Every class that lists guarantees, wherever it is."""
    found = [node for path in sorted((ROOT / "src" / "tidemill").rglob("*.py")) for node in ast.walk(ast.parse(path.read_text()))]
    return [node for node in found if isinstance(node, ast.ClassDef) and "\nGuarantees" in (ast.get_docstring(node) or "")]


PROMISERS = [pytest.param(node, id=node.name) for node in promisers()]
PROTOCOLS = [pytest.param(stage, node, id=f"{stage}.{node.name}") for stage, node in protocols()]
PORTS = [pytest.param(stage, node, id=f"{stage}.{node.name}") for stage, node in protocols() if node.name not in PARTS | LATER]


@pytest.mark.parametrize(("stage", "port"), PROTOCOLS)
def test_small(stage: str, port: ast.ClassDef) -> None:
    methods = [n for n in port.body if isinstance(n, ast.FunctionDef)]
    assert len(methods) <= 7
    assert (port.end_lineno or 0) - port.lineno < 120
    assert all(ast.get_docstring(m) for m in methods)


@pytest.mark.parametrize(("stage", "port"), PORTS)
def test_promises_name_the_suite_that_checks_them(stage: str, port: ast.ClassDef) -> None:
    assert re.search(rf"{SUITE.pattern}`", ast.get_docstring(port) or ""), "the docstring must list Guarantees, each checked by its suite"
    assert promised(port), "nothing is promised"


@pytest.mark.parametrize("promiser", PROMISERS)
def test_each_guarantee_has_a_test_in_a_suite_that_somebody_runs(promiser: ast.ClassDef) -> None:
    found = SUITE.search(ast.get_docstring(promiser) or "")
    assert found is not None
    suite = getattr(importlib.import_module(f"tidemill.testing.{found[1]}"), found[2])
    untested = [guarantee for guarantee in promised(promiser) if not checked(suite, guarantee)]
    assert not untested, f"{found[2]} has no test for: {', '.join(untested)} (name it test_NAME…, or mark it @keeps(NAME))"
    users = [
        p
        for p in (ROOT / "tests" / "contract").rglob("test_*.py")
        if re.search(rf"^class \w+\([^)]*\b{found[2]}\b", p.read_text(), re.MULTILINE)
    ]
    assert users, f"nothing under tests/contract subclasses {found[2]}"


def test_no_test_keeps_what_nobody_promises() -> None:
    stray: dict[str, str] = {}
    ports = promisers()
    for path in sorted((ROOT / "src" / "tidemill" / "testing").glob("*.py")):
        module = importlib.import_module(f"tidemill.testing.{path.stem}")
        for suite in vars(module).values():
            if isinstance(suite, type) and issubclass(suite, Contract) and suite.__module__ == module.__name__:
                claims = {g for name in dir(suite) for g in getattr(getattr(suite, name), "guarantees", ())}
                names = [base.__name__ for base in suite.__mro__ if base.__module__.startswith("tidemill.testing.")]
                by_suite = {g for port in ports if any(n in (ast.get_docstring(port) or "") for n in names) for g in promised(port)}
                stray |= {f"{suite.__name__}: {g}": path.name for g in claims - by_suite}
    assert not stray


def test_a_guarantee_without_a_test_is_found() -> None:
    class Suite(Contract):
        def test_atomic_when_killed(self) -> None: ...

        @keeps("leak-free", "exactly once")
        def test_any_history(self) -> None: ...

    assert checked(Suite, "atomic") == ["test_atomic_when_killed"]
    assert checked(Suite, "leak-free") == checked(Suite, "exactly once") == ["test_any_history"]
    assert checked(Suite, "atom") == checked(Suite, "durable") == checked(Suite, "exactly") == []


def test_the_lists_of_exceptions_are_not_stale() -> None:
    assert {node.name for _, node in protocols()} >= PARTS | LATER

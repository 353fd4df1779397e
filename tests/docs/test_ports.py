"""Ports are small, promise something, and each promise is checked by a suite that every implementation runs."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"Codec", "Evaluator", "FeatureReader", "LoadedModel", "Metrics", "MetricSource", "Profile", "Served"}
"""Protocols that are no role of a system: values with behaviour, hooks, and halves of another port."""
LATER = {"Compiler", "Deliverer"}
"""Ports without an implementation yet; their adapters come with their contracts."""


def protocols() -> list[tuple[str, ast.ClassDef]]:
    return [
        (path.parent.name, node)
        for path in sorted((ROOT / "src" / "tidemill").glob("*/ports.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
    ]


PROTOCOLS = [pytest.param(stage, node, id=f"{stage}.{node.name}") for stage, node in protocols()]
PORTS = [pytest.param(stage, node, id=f"{stage}.{node.name}") for stage, node in protocols() if node.name not in PARTS | LATER]


@pytest.mark.parametrize(("stage", "port"), PROTOCOLS)
def test_small(stage: str, port: ast.ClassDef) -> None:
    methods = [n for n in port.body if isinstance(n, ast.FunctionDef)]
    assert len(methods) <= 7
    assert (port.end_lineno or 0) - port.lineno < 120
    assert all(ast.get_docstring(m) for m in methods)


@pytest.mark.parametrize(("stage", "port"), PORTS)
def test_promises_are_checked_by_a_suite_that_somebody_runs(stage: str, port: ast.ClassDef) -> None:
    text = ast.get_docstring(port) or ""
    suite = re.search(r"tidemill\.testing\.(\w+)\.(\w+)", text)
    assert "Guarantees" in text
    assert suite is not None, "the docstring must name its suite: tidemill.testing.<stage>.<Port>Contract"
    contract = getattr(importlib.import_module(f"tidemill.testing.{suite[1]}"), suite[2])
    assert any(name.startswith("test_") for name in dir(contract))
    users = [
        p
        for p in (ROOT / "tests" / "contract").rglob("test_*.py")
        if re.search(rf"^class \w+\([^)]*\b{suite[2]}\b", p.read_text(), re.MULTILINE)
    ]
    assert users, f"nothing under tests/contract subclasses {suite[2]}"


def test_the_lists_of_exceptions_are_not_stale() -> None:
    assert {node.name for _, node in protocols()} >= PARTS | LATER

"""The shape of the source: small files, one direction of imports, nothing of our machines in it."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "tidemill"
LONGEST_FUNCTION = 45  # lines without the docstring; aim at 40


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [p for p in SRC.rglob("*.py") if "__pycache__" not in p.parts]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_long_and_most_are_short() -> None:
    sizes = {p: lines(p) for p in sources()}
    assert {p.name: n for p, n in sizes.items() if n > 500} == {}
    assert statistics.median(sizes.values()) < 150


def test_functions_are_short() -> None:
    long = []
    for path in (p for p in sources() if "migrations" not in p.parts):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) and node.body[0].end_lineno else 0
                body = (node.end_lineno or 0) - node.body[0].lineno + 1 - docstring
                if body > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {body}")
    assert long == []


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_stage_has_its_ports_and_writes_out_its_verbs() -> None:
    for ports in SRC.glob("*/ports.py"):
        init = ports.parent / "__init__.py"
        names = [
            n for n in ast.walk(ast.parse(init.read_text())) if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
        ]
        imports = re.search(r"^from ", init.read_text(), re.MULTILINE)
        assert bool(names) == bool(imports), f"{init} re-exports without a literal __all__"


@pytest.mark.parametrize("forbidden", [r"unittest\.mock", r"\bTODO\b|\bFIXME\b", r"datetime\.now\(|datetime\.utcnow\(|time\.time\("])
def test_sources_are_free_of(forbidden: str) -> None:
    found = [p.name for p in sources() if re.search(forbidden, p.read_text())]
    assert found == []


def test_nothing_is_left_unfinished() -> None:
    """A contract's fixture that each implementation has to supply is the one thing that may say so."""
    found = [p.name for p in sources() if p.parent.name != "testing" and "raise NotImplementedError" in p.read_text()]
    assert found == []


def test_nothing_of_a_machine_is_committed() -> None:
    names = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/[\w-]+")
    found = {}
    for path in tracked("*.py", "*.md", "*.toml", "*.yml", "*.yaml", "Makefile", ".ci/*", ".importlinter"):
        if path != Path(__file__) and (hit := names.search(path.read_text(encoding="utf-8"))):
            found[path.name] = hit[0]
    assert found == {}

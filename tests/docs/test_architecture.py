"""The map to the reference architecture is whole, and what it names exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "reference-architecture.md"
ROWS = re.findall(r"^\| (\d+|E\d+) \| (.+?) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)


def every_test() -> set[str]:
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "src" / "tidemill" / "testing").glob("*.py")]
    return {name for path in files for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE)}


def test_all_28_steps_and_21_edges_are_there_once() -> None:
    assert [row[0] for row in ROWS] == [*map(str, range(1, 29)), *(f"E{i}" for i in range(1, 22))]


@pytest.mark.parametrize(("number", "where"), [(row[0], row[2]) for row in ROWS])
def test_what_a_row_names_exists(number: str, where: str) -> None:
    names = re.findall(r"`([^`]+)`", where)
    assert names
    for name in names:
        if name.startswith("tidemill."):
            resolve(name)
        elif name != "README.md":
            assert (ROOT / name).exists(), name


def resolve(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(("number", "shown"), [(row[0], row[3]) for row in ROWS])
def test_a_row_is_shown_by_tests_that_exist(number: str, shown: str) -> None:
    names = re.findall(r"`(test_\w+)`", shown)
    assert names
    assert set(names) - every_test() == set()

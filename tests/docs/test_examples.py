"""The miniature tells its story: within 300 lines, from a cached step to a promotion with a reason."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

MINI = Path(__file__).resolve().parents[2] / "examples" / "00-mini" / "mini.py"


@pytest.fixture(scope="module")
def mini() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini", MINI)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mini"] = module
    spec.loader.exec_module(module)
    return module


def test_small_and_dependent_on_numpy_alone() -> None:
    text = MINI.read_text()
    assert len(text.splitlines()) <= 300
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def test_the_story_comes_out(mini: ModuleType) -> None:
    told: list[str] = []
    results = mini.main(told.append)
    story = "\n".join(told)
    assert results["never again"] - results["on drift"] > 0.015
    assert "reject" in story
    assert story.count("promote") >= 3
    assert "1 came from the cache" in story
    assert "why did order" in story


def test_two_clocks_hide_what_was_not_known(mini: ModuleType) -> None:
    late_report = mini.Delivery(order=1, kitchen="pizza", minutes=60.0, delivered=100, recorded=200)
    seen = mini.Deliveries([late_report, mini.Delivery(2, "pizza", 20.0, 90, 95)])
    assert seen.recent("pizza", 150) == 20.0
    assert seen.recent("pizza", 200) == 40.0
    assert seen.recent("pizza", 99 + 3 * mini.HOUR) == 60.0  # the other left the window; its tail is open


def test_equal_models_are_not_promoted(mini: ModuleType) -> None:
    import numpy as np

    x, day = np.random.default_rng(0).normal(size=(400, 3)), np.repeat(np.arange(5), 80)
    same = np.zeros(4)
    passed, evidence = mini.gate(same, same, x, np.tile([0.0, 1.0], 200), day)
    assert not passed
    assert "effect +0.0000" in evidence


def test_it_runs_as_a_program() -> None:
    out = subprocess.run([sys.executable, str(MINI)], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "worth of the loop" in out

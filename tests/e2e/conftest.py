"""The story's ground: weeks of the real flights, replayed once per session and then looked at by every test."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tidemill.core.instants import parse_instant
from tidemill.platform.replays import replay
from tidemill.platform.root import Platform

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights"
FIRST, SERVED, END = "2013-01-10", "2013-01-26", "2013-02-22"


def load_script(path: Path) -> ModuleType:
    """Import a script of an example by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def make_project(folder: Path, *, first: str = FIRST, end: str = END, faults: bool = False) -> Path:
    """The flights example over a part of the year."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLE / "definitions.py", folder)
    for name in ("conf", "schemas"):
        if (EXAMPLE / name).is_dir():
            shutil.copytree(EXAMPLE / name, folder / name, dirs_exist_ok=True)
    policies = folder / "conf" / "retraining"
    policies.mkdir(parents=True, exist_ok=True)
    (policies / "weekly.yaml").write_text("triggers:\n  - kind: schedule\n    every: 7d\n")
    load_script(EXAMPLE / "make_data.py").make(folder / "data", first, end, faults)
    return folder


@dataclass(frozen=True)
class Story:
    """A project after its replay: `report` is what the replay returned."""

    project: Path
    report: Mapping[str, Any]
    from_us: int
    until_us: int


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two weeks of learning, then four weeks of serving under two policies."""
    kept = os.environ.get("TIDEMILL_STORY")  # while writing tests: a folder that keeps the story between runs
    folder = (Path(kept) if kept else tmp_path_factory.mktemp("story")) / "flights"
    project = folder if (folder / "data").is_dir() else make_project(folder)
    from_us, until_us = parse_instant(SERVED), parse_instant(END)
    report = replay(project, from_us=from_us, until_us=until_us, policies=["weekly", "never"])
    return Story(project, report, from_us, until_us)


@pytest.fixture
def platform(story: Story) -> Iterator[Platform]:
    """The story's project, opened."""
    opened = Platform.open(story.project, ["retraining=weekly"])
    yield opened
    opened.close()

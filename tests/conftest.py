"""Tests marked `xdist_group` run in one worker, one after the other.

pytest-xdist's own `--dist loadgroup` writes the group into a private attribute of the test that pytest 9.2 no longer reads, so every test
was a group of its own and each worker replayed the story. Here the group is read from the test's file, which works with any pytest.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
_GROUP = re.compile(r"""^pytestmark = .*xdist_group\("(\w+)"\)""", re.MULTILINE)


@cache
def group_of(file: str) -> str | None:
    """The group that a test file (relative to the root) puts its tests in, None when it names none."""
    path = ROOT / file
    found = _GROUP.search(path.read_text()) if path.is_file() else None
    return found[1] if found else None


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file's group, else each test by itself; the largest groups go first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.split("::", 1)[0]) or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Have xdist distribute tests by the groups above."""
    return GroupScheduling(config, log)

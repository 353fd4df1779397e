"""The embedded builder keeps its port's promises."""

from pathlib import Path

import pytest

from tidemill.cicd.embedded import GitBuilder
from tidemill.cicd.ports import Builder
from tidemill.testing.cicd import BuilderContract


class TestGitBuilder(BuilderContract):
    @pytest.fixture
    def builder(self, keep: Path) -> Builder:
        return GitBuilder(keep)

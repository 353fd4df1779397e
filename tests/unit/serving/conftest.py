"""What most tests of the model server begin with."""

from pathlib import Path

import pytest
from tests.support.serving_kit import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """One version, live; a file that needs more has a fixture of its own."""
    return Stack.of(tmp_path, live=1)

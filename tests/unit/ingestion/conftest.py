from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.ingestion_kit import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "one")


@pytest.fixture
def another(tmp_path: Path) -> Callable[[str], World]:
    return lambda name: World(tmp_path / name)

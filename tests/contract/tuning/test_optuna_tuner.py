"""The embedded tuner keeps its port's promises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.testing.tuning import TunerContract
from tidemill.tuning.embedded import OptunaTuner
from tidemill.tuning.ports import Tuner


class TestOptunaTuner(TunerContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[str], Tuner]:
        return lambda name: OptunaTuner(tmp_path / f"{name}.db")

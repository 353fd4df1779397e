"""Each flavor that an adapter reads keeps the promises of a runtime."""

from functools import partial
from pathlib import Path

import pytest
from tests.support import flavor_kit

from tidemill.core.policy import ModelPolicy
from tidemill.serving.embedded import OnnxRuntime
from tidemill.serving.ports import Runtime
from tidemill.testing.serving import RuntimeContract, Write


class TestXgboost(RuntimeContract):
    rtol = 1e-6  # it computes in 32 bits
    explains = True

    @pytest.fixture
    def runtime(self) -> Runtime:
        pytest.importorskip("xgboost")
        from tidemill.adapters.xgboost.serving import open_reader

        return OnnxRuntime({"xgboost": lambda: open_reader(ModelPolicy())})

    @pytest.fixture
    def write(self) -> Write:
        return partial(flavor_kit.write, "xgboost")


class TestSklearn(RuntimeContract):
    @pytest.fixture
    def runtime(self) -> Runtime:
        pytest.importorskip("skops")
        from tidemill.adapters.sklearn.serving import open_reader

        return OnnxRuntime({"sklearn": lambda: open_reader(ModelPolicy())})

    @pytest.fixture
    def write(self) -> Write:
        return partial(flavor_kit.write, "sklearn")


class TestFunction(RuntimeContract):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        from tidemill.adapters.function.serving import open_reader

        (tmp_path / "rules.py").write_text(flavor_kit.RULES)
        return OnnxRuntime({"tidemill_function": lambda: open_reader(ModelPolicy(project=str(tmp_path)))})

    @pytest.fixture
    def write(self) -> Write:
        return partial(flavor_kit.write, "function")


class TestTorch(RuntimeContract):
    @pytest.fixture
    def runtime(self) -> Runtime:
        pytest.importorskip("torch")
        from tidemill.adapters.torch.serving import open_reader

        return OnnxRuntime({"tidemill_torch": lambda: open_reader(ModelPolicy(timeout_s=60))})

    @pytest.fixture
    def write(self) -> Write:
        return partial(flavor_kit.write, "torch")


class TestNumba(RuntimeContract):
    """What it compiles is tested beside it; all else, and what it refuses, is as ever."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        pytest.importorskip("numba")
        from tidemill.adapters.numba.serving import open_runtime

        return open_runtime("numba:local", OnnxRuntime)

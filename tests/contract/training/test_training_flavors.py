"""Each library's models are kept as the port says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import pytest
from tests.support import flavor_kit

from tidemill.core.policy import ModelPolicy
from tidemill.testing.models import write_linear_model
from tidemill.testing.training import FlavorContract
from tidemill.training import deterministic, encode, lightgbm_model, onnx_model
from tidemill.training.flavors import flavor_of
from tidemill.training.learners import allowing
from tidemill.training.ports import Flavor, Model, TrainingSet

Fit = Callable[[TrainingSet], Model]


class TestLightgbm(FlavorContract):
    @pytest.fixture
    def flavor(self) -> Flavor:
        return flavor_of("lightgbm")

    @pytest.fixture
    def fit(self) -> Fit:
        def fit(rows: TrainingSet) -> Model:
            data = lightgbm.Dataset(*encode(rows))
            return lightgbm_model(lightgbm.train({"objective": "binary", **deterministic()}, data, 10), rows)

        return fit


class TestOnnx(FlavorContract):
    @pytest.fixture
    def flavor(self) -> Flavor:
        return flavor_of("onnx")

    @pytest.fixture
    def fit(self, tmp_path_factory: pytest.TempPathFactory) -> Fit:
        graph = write_linear_model(tmp_path_factory.mktemp("graph"), {"a": 1.0, "b": 0.5, "t": -1.0}) / "model.onnx"
        return lambda rows: onnx_model(graph.read_bytes(), rows)


class TestXgboost(FlavorContract):
    @pytest.fixture
    def flavor(self) -> Flavor:
        pytest.importorskip("xgboost")
        return flavor_of("xgboost")

    @pytest.fixture
    def fit(self) -> Fit:
        def fit(rows: TrainingSet) -> Model:
            import xgboost

            from tidemill.adapters.xgboost.training import xgboost_model

            data = xgboost.DMatrix(*encode(rows))
            return xgboost_model(xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 10), rows)

        return fit


class TestSklearn(FlavorContract):
    @pytest.fixture
    def flavor(self) -> Flavor:
        pytest.importorskip("skops")
        return flavor_of("sklearn")

    @pytest.fixture
    def fit(self) -> Fit:
        def fit(rows: TrainingSet) -> Model:
            from sklearn.impute import SimpleImputer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler

            from tidemill.adapters.sklearn.training import sklearn_model

            return sklearn_model(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(*encode(rows)), rows)

        return fit


class TestFunction(FlavorContract):
    @pytest.fixture(autouse=True)
    def allowed(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        project: Path = tmp_path_factory.mktemp("project")
        (project / "rules.py").write_text(flavor_kit.RULES)
        with allowing(ModelPolicy(project=str(project))):
            yield

    @pytest.fixture
    def flavor(self) -> Flavor:
        return flavor_of("function")

    @pytest.fixture
    def fit(self) -> Fit:
        def fit(rows: TrainingSet) -> Model:
            from tidemill.adapters.function.training import function_model

            weights = b'{"weights": {"a": 1.0, "b": 0.5, "t": 1.0}, "categories": {"t": ["x", "y"]}}'
            return function_model("rules:linear", rows, {"weights.json": weights})

        return fit


class TestTorch(FlavorContract):
    @pytest.fixture
    def flavor(self) -> Flavor:
        pytest.importorskip("torch")
        return flavor_of("torch")

    @pytest.fixture
    def fit(self) -> Fit:
        torch = pytest.importorskip("torch")

        def fit(rows: TrainingSet) -> Model:
            from tidemill.adapters.torch.training import torch_model

            module: Any = torch.nn.Module

            class Net(module):  # type: ignore[misc]
                def __init__(self) -> None:
                    super().__init__()
                    self.inner = torch.nn.Linear(len(rows.features), 1)

                def forward(self, x: Any) -> Any:
                    return torch.sigmoid(self.inner(torch.nan_to_num(x)))

            torch.manual_seed(3)
            net, (x, y) = Net(), (torch.tensor(part, dtype=torch.float32) for part in encode(rows))
            ways = torch.optim.Adam(net.parameters(), 0.05)
            for _ in range(30):
                ways.zero_grad()
                torch.nn.functional.binary_cross_entropy(net(x)[:, 0], y).backward()
                ways.step()
            return torch_model(net, rows)

        return fit

"""What the makers of models take and what they refuse, with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.training.conftest import make_rows

import tidemill as tm
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.testing.models import write_linear_model
from tidemill.training import score
from tidemill.training.flavors import flavor_of
from tidemill.training.learners import allowing

ROWS = make_rows(400)
X, Y = tm.encode(ROWS)


def test_a_flavor_that_nobody_knows_names_those_there_are() -> None:
    with pytest.raises(InvalidError, match="'keras' are not known; there are lightgbm, function"):
        flavor_of("keras")


class TestOnnx:
    def test_what_is_no_graph_of_these_columns_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidError, match="no ONNX graph"):
            tm.onnx_model(b"no graph", ROWS)
        two = write_linear_model(tmp_path, {"a": 1.0, "b": 1.0}) / "model.onnx"
        with pytest.raises(InvalidError, match="takes 2 features, the training set has 4"):
            tm.onnx_model(two.read_bytes(), ROWS)

    def test_scores_are_the_graph_s(self, tmp_path: Path) -> None:
        weights = dict.fromkeys(ROWS.features, 0.25)
        model = tm.onnx_model((write_linear_model(tmp_path, weights) / "model.onnx").read_bytes(), ROWS, {"epochs": 3})
        np.testing.assert_allclose(score(model, X), 1 / (1 + np.exp(-0.25 * np.nan_to_num(X).sum(axis=1))), rtol=1e-12)
        assert model.params == {"epochs": 3}


class TestXgboost:
    @pytest.fixture(autouse=True)
    def library(self) -> Any:
        self.xgb = pytest.importorskip("xgboost")

    def test_what_does_not_fit_the_rows_is_refused(self) -> None:
        xgb = self.xgb
        with pytest.raises(InvalidError, match="not object"):
            tm.xgboost_model(object(), ROWS)
        with pytest.raises(InvalidError, match="fitted on 2 columns"):
            tm.xgboost_model(xgb.train({}, xgb.DMatrix(X[:, :2], Y), 2), ROWS)
        many = {"objective": "multi:softprob", "num_class": 3}
        with pytest.raises(InvalidError, match="3 scores a row"):
            tm.xgboost_model(xgb.train(many, xgb.DMatrix(X, np.arange(len(Y)) % 3), 2), ROWS)

    def test_an_early_stop_keeps_the_best_trees(self) -> None:
        xgb = self.xgb
        classifier = xgb.XGBClassifier(n_estimators=200, early_stopping_rounds=3, learning_rate=0.5, n_jobs=1)
        classifier.fit(X[:300], Y[:300], eval_set=[(X[300:], Y[300:])], verbose=False)
        model = tm.xgboost_model(classifier, ROWS)
        assert model.params["trees"] == classifier.best_iteration + 1 < 200
        np.testing.assert_array_equal(score(model, X), classifier.predict_proba(X)[:, 1].astype(np.float64))

    def test_contributions_add_up_to_the_answer(self) -> None:
        from tidemill.adapters.xgboost.boosters import Trees

        model = tm.xgboost_model(self.xgb.XGBClassifier(n_estimators=20, n_jobs=1).fit(X, Y), ROWS)
        trees = Trees(model.native)
        p = trees.scores(X)
        np.testing.assert_allclose(trees.contributions(X).sum(axis=1), np.log(p / (1 - p)), atol=1e-4)


class TestSklearn:
    @pytest.fixture(autouse=True)
    def library(self) -> Any:
        pytest.importorskip("skops")

    def test_what_gives_no_single_score_is_refused(self) -> None:
        from sklearn.linear_model import LogisticRegression, RidgeClassifier
        from sklearn.tree import DecisionTreeRegressor

        x = np.nan_to_num(X)
        with pytest.raises(InvalidError, match="not fitted"):
            tm.sklearn_model(LogisticRegression(), ROWS)
        with pytest.raises(InvalidError, match="fitted on 2 columns"):
            tm.sklearn_model(LogisticRegression().fit(x[:, :2], Y), ROWS)
        with pytest.raises(InvalidError, match="two classes"):
            tm.sklearn_model(LogisticRegression().fit(x, np.arange(len(x)) % 3), ROWS)
        with pytest.raises(InvalidError, match="predict_proba"):
            tm.sklearn_model(RidgeClassifier().fit(x, Y), ROWS)
        with pytest.raises(RefusedError, match=r"sklearn\.tree\._tree\.Tree.*models\.trusted_types"):
            tm.sklearn_model(DecisionTreeRegressor().fit(x, Y), ROWS)

    def test_the_policy_and_not_the_artifact_says_what_is_trusted(self) -> None:
        from sklearn.ensemble import RandomForestClassifier

        with allowing(ModelPolicy(trusted_types=("sklearn.tree._tree.Tree",))):
            forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
            model = tm.sklearn_model(forest, ROWS)
            np.testing.assert_array_equal(score(model, X), forest.predict_proba(X)[:, 1])
        with pytest.raises(RefusedError, match="does not trust"):
            score(model, X)

    def test_a_data_frame_s_names_are_refused(self) -> None:
        pandas = pytest.importorskip("pandas")
        from sklearn.linear_model import LogisticRegression

        frame = pandas.DataFrame(np.nan_to_num(X), columns=list(ROWS.features))
        with pytest.raises(InvalidError, match="data frame"):
            tm.sklearn_model(LogisticRegression().fit(frame, Y), ROWS)


def test_a_function_is_spelt_module_function() -> None:
    with pytest.raises(InvalidError, match="rules:predict"):
        tm.function_model("rules.predict", ROWS)

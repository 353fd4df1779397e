"""A pipeline trains a model of each library, registers it and serves it: the scores are the library's own."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.small_project import asked, ingested, tidemill, trained

from tidemill.platform.root import Platform
from tidemill.platform.wiring import holdout_rows
from tidemill.training import read_model

pytestmark = pytest.mark.slow
XGBOOST = """    import xgboost as xgb

    x, y = tm.encode(rows)
    params = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
    return tm.xgboost_model(xgb.train(params, xgb.DMatrix(x, y), num_boost_round=40), rows, params)"""
SKLEARN = """    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, y = tm.encode(rows)
    texts = [rows.features.index(name) for name in rows.categories]
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), texts), remainder=make_pipeline(SimpleImputer(), StandardScaler()))
    return tm.sklearn_model(make_pipeline(columns, LogisticRegression(max_iter=500)).fit(x, y), rows)"""
FOREST = """    from sklearn.ensemble import RandomForestClassifier

    return tm.sklearn_model(RandomForestClassifier(20, random_state=0).fit(*tm.encode(rows)), rows)"""
FUNCTION = """    x, y = tm.encode(rows)
    rate = float(y.mean())
    return tm.function_model("rules:late", rows, {"rate.txt": str(rate).encode()})"""
RULES = '''"""Rules of thumb."""

import numpy as np


def late(columns, folder):
    rate = float((folder / "rate.txt").read_text())
    far = np.where(np.isnan(columns["distance_km"]), 3.0, columns["distance_km"])
    return np.clip(rate + 0.03 * (far - 3) + 0.1 * (columns["kitchen"] == "taco"), 0.01, 0.99)
'''


def xgboost_scores(native: bytes, x: Any) -> Any:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(native))
    return booster.inplace_predict(x)


def sklearn_scores(native: bytes, x: Any) -> Any:
    import skops.io

    return skops.io.loads(native, trusted=skops.io.get_untrusted_types(data=native)).predict_proba(x)[:, 1]


def function_scores(native: bytes, x: Any) -> Any:
    return None  # compared with the rule itself below


CASES: dict[str, tuple[str, str, dict[str, str], Callable[[bytes, Any], Any]]] = {
    "xgboost": (XGBOOST, "", {}, xgboost_scores),
    "sklearn": (SKLEARN, "", {}, sklearn_scores),
    "forest": (FOREST, "models:\n  trusted_types: [sklearn.tree._tree.Tree]\n", {}, sklearn_scores),
    "function": (FUNCTION, "", {"rules.py": RULES}, function_scores),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("flavors") / "kitchen")


@pytest.mark.parametrize("name", CASES)
def test_trained_registered_and_served(there: Path, tmp_path: Path, name: str) -> None:
    fit, config, files, library = CASES[name]
    pytest.importorskip({"sklearn": "skops", "forest": "skops", "xgboost": "xgboost"}.get(name, "numpy"))
    project = trained(there, tmp_path / "kitchen", fit, config=config, files=files)
    platform = Platform.open(project)
    version = platform.registry.get("kitchen", 2)
    folder = platform.blobs.fetch(version.digest)
    held = holdout_rows(platform.ledger, platform.blobs, version)
    rows = [tuple(row) for row in held.rows[:200]]
    loaded: Any = platform.runtime.load(folder)
    x = loaded.matrix(rows)
    want = library(read_model(folder).native, x)
    if want is None:
        rate = float(np.mean(_training_labels(platform, version)))
        far = np.array([np.nan if r[1] is None else r[1] for r in rows], dtype=float)
        want = np.clip(rate + 0.03 * (np.where(np.isnan(far), 3.0, far) - 3) + 0.1 * np.array([r[0] == "taco" for r in rows]), 0.01, 0.99)
    np.testing.assert_allclose(loaded.predict(rows), want, rtol=1e-12)
    assert version.metrics["auc"] > 0.5
    inputs = [
        {"name": column, "datatype": "BYTES" if column in loaded.texts else "FP64", "shape": [len(rows)], "data": [r[i] for r in rows]}
        for i, column in enumerate(held.columns)
    ]
    reply = asyncio.run(asked(platform, json.dumps({"inputs": inputs}).encode()))
    answer = reply.json()
    assert reply.status == 200, answer
    np.testing.assert_allclose(answer["outputs"][0]["data"], want, rtol=1e-12)
    platform.close()


def _training_labels(platform: Platform, version: Any) -> Any:
    from tidemill.training import TrainingSetCodec

    rows = TrainingSetCodec().load({"digest": version.meta["dataset"]}, platform.blobs)
    return rows.table.column("label").to_numpy()


def test_types_that_nobody_trusts_stop_the_pipeline_with_their_names(there: Path, tmp_path: Path) -> None:
    pytest.importorskip("skops")
    with pytest.raises(AssertionError, match=r"sklearn\.tree\._tree\.Tree"):
        trained(there, tmp_path / "kitchen", FOREST)


def test_a_function_that_is_not_the_project_s_is_not_called(there: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="only functions of the project"):
        trained(there, tmp_path / "kitchen", FUNCTION.replace("rules:late", "os:system"))
    assert len(json.loads(tidemill("models", "--project", str(tmp_path / "kitchen"), "--json"))) == 1

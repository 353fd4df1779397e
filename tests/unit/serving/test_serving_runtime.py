"""What the embedded runtime loads, and what it refuses to touch."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from tidemill.core.errors import InvalidError, RefusedError
from tidemill.serving.embedded import OnnxRuntime
from tidemill.serving.embedded.refuse import is_pickle
from tidemill.testing.models import write_linear_model
from tidemill.training.package import pack_model
from tidemill.training.ports import Model

PICKLED = pickle.dumps(ValueError("x"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_linear_model(tmp_path / "m", {"a": 1.0, "b": 2.0}, example=[[1.0, 2.0]])


def _tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("data")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", data)
    return out.getvalue()


def _objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{}], dtype=object), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        zlib.compress,
        bz2.compress,
        lzma.compress,
        _tar,
        _zip,
        lambda d: gzip.compress(_tar(d)),
        lambda d: _zip(gzip.compress(d)),
        lambda _d: _objects(),
    ],
    ids=["gzip", "zlib", "bzip2", "xz", "tar", "zip", "tar.gz", "gz in zip", "objects"],
)
def test_packed_pickles_are_refused(folder: Path, pack: Callable[[bytes], bytes]) -> None:
    (folder / "extra").write_bytes(pack(PICKLED))
    with pytest.raises(RefusedError, match="pickle"):
        OnnxRuntime().load(folder)


def test_archives_too_deep_or_broken_are_refused(folder: Path) -> None:
    (folder / "extra").write_bytes(_zip(_zip(_zip(_zip(b"x")))))
    with pytest.raises(RefusedError, match="too deep"):
        OnnxRuntime().load(folder)
    (folder / "extra").write_bytes(_zip(b"x" * 500)[:60])
    with pytest.raises(RefusedError, match="cannot be inspected"):
        OnnxRuntime().load(folder)


@pytest.mark.parametrize(
    "harmless",
    [
        b"",
        b"tree\nversion=v4\n",
        b'{"a": [1, 2]}',
        b"[1, 2]",
        b"(see the notes)",
        b"No notes.",
        b"import x\n",
        b"conda: env",
        bytes(range(256)),
        b"loss = 0.5\n",
        b"]",
        b"i = 1.",
    ],
)
def test_what_is_no_pickle_is_not_called_one(harmless: bytes) -> None:
    assert not is_pickle(harmless)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [ValueError("x"), np.float64, {"a": [1, 2.5, None]}, [print]])
def test_pickles_are_known_by_content(protocol: int, value: Any) -> None:
    assert is_pickle(pickle.dumps(value, protocol=protocol))


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="link"):
        OnnxRuntime().load(folder)


@pytest.mark.parametrize(
    ("flavors", "reason"),
    [
        ({"python_function": {"loader_module": "mlflow.sklearn"}}, "mlflow.sklearn"),
        ({"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}}, "runs code"),
        ({"onnx": {"data": "model.onnx"}, "python_function": {"loader_module": "my.code"}}, "my.code"),
        ({"sklearn": {"serialization_format": "cloudpickle"}}, "cloudpickle"),
        ({"keras": {}}, "keras"),
        ({}, "none"),
        (None, "no flavors"),
        ({"onnx": {"data": "../elsewhere.onnx"}}, "outside the model folder"),
    ],
)
def test_flavors_that_are_refused(folder: Path, flavors: Any, reason: str) -> None:
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors}))
    with pytest.raises(RefusedError, match=reason):
        OnnxRuntime().load(folder)


def test_mlflow_s_own_loaders_of_safe_flavors_are_fine(folder: Path) -> None:
    (folder / "MLmodel").write_text(
        json.dumps({"flavors": {"onnx": {"data": "model.onnx"}, "python_function": {"loader_module": "mlflow.onnx"}}})
    )
    assert OnnxRuntime().load(folder).predict([(0.0, 0.0)]).tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("MLmodel", "a: [", "not readable YAML"),
        ("MLmodel", "- a", "not a mapping"),
        ("model.onnx", "not onnx", "ONNX Runtime refuses"),
        ("tidemill.json", "{}", "input columns"),
        ("tidemill.json", '{"features": ["a"]}', "takes 2 features, the model lists 1|example"),
        ("input_example.json", "[]", "input example"),
        ("input_example.json", '{"columns": ["a"], "data": [[1]]}', "input example"),
    ],
)
def test_broken_files_are_refused_with_the_reason(folder: Path, name: str, text: str, reason: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(RefusedError, match=reason):
        OnnxRuntime().load(folder)


def test_a_folder_without_its_files_is_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(RefusedError, match=r"neither model.onnx nor model.txt"):
        OnnxRuntime().load(folder)
    (folder / "MLmodel").unlink()
    with pytest.raises(RefusedError, match="no MLmodel"):
        OnnxRuntime().load(folder)


def test_without_tidemill_json_the_signature_names_the_columns(folder: Path) -> None:
    (folder / "tidemill.json").unlink()
    manifest = json.loads((folder / "MLmodel").read_text())
    manifest["signature"] = {"inputs": json.dumps([{"name": "a", "type": "double"}, {"name": "b", "type": "double"}])}
    (folder / "MLmodel").write_text(json.dumps(manifest))
    assert OnnxRuntime().load(folder).features == ("a", "b")


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    x = np.random.default_rng(1).normal(size=(400, 3))
    data = lightgbm.Dataset(x, (x[:, 0] > 0).astype(float))
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 7}, data, 10)


def test_lightgbm_is_read_where_there_is_no_onnx(tmp_path: Path, booster: lightgbm.Booster) -> None:
    folder = write_linear_model(tmp_path / "m", {"a": 1.0, "b": 1.0, "c": 1.0}, categories={"c": ["x"]})
    (folder / "model.onnx").unlink()
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"lightgbm": {"data": "model.txt"}}}))
    booster.save_model(folder / "model.txt")
    model = OnnxRuntime().load(folder)
    rows = [(0.5, None, "x"), (-0.5, 1.0, None)]
    np.testing.assert_array_equal(model.predict(rows), booster.predict(np.array([[0.5, np.nan, 0.0], [-0.5, 1.0, -1.0]])))
    (folder / "model.txt").write_text("tree\nbroken")
    with pytest.raises(RefusedError, match="LightGBM refuses"):
        OnnxRuntime().load(folder)


def test_lightgbm_of_another_width_is_refused(tmp_path: Path, booster: lightgbm.Booster) -> None:
    folder = write_linear_model(tmp_path / "m", {"a": 1.0})
    shutil.rmtree(folder)
    folder = write_linear_model(folder, {"a": 1.0})
    (folder / "model.onnx").unlink()
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"lightgbm": {}}}))
    booster.save_model(folder / "model.txt")
    with pytest.raises(RefusedError, match="takes 3 features"):
        OnnxRuntime().load(folder)


def test_rows_of_another_width_say_so(folder: Path) -> None:
    with pytest.raises(InvalidError, match="1 values where the model takes 2: a, b"):
        OnnxRuntime().load(folder).predict([(1.0, 2.0), (1.0,)])


def test_what_training_packs_is_loaded_and_scores_as_the_native_model(tmp_path: Path, booster: lightgbm.Booster) -> None:
    meta = {"example": [[0.5, None, "x"], [1.0, 2.0, None]]}
    packed = Model("lightgbm", booster.model_to_string().encode(), ("a", "b", "c"), {"c": ("w", "x")}, meta=meta)
    (tmp_path / "packed").mkdir()
    pack_model(packed, tmp_path / "packed")
    model = OnnxRuntime().load(tmp_path / "packed")
    assert (model.features, model.texts) == (("a", "b", "c"), frozenset({"c"}))
    rng = np.random.default_rng(3)
    rows = [(float(a), None if a > 1 else float(b), [None, "w", "x", "new"][i % 4]) for i, (a, b) in enumerate(rng.normal(size=(300, 2)))]
    x = np.array([[a, np.nan if b is None else b, {"w": 0.0, "x": 1.0}.get(str(c), -1.0)] for a, b, c in rows])
    np.testing.assert_allclose(model.predict(rows), booster.predict(x), atol=1e-6)
    assert [model.predict([row])[0] for row in rows[:50]] == model.predict(rows).tolist()[:50]

"""PyTorch's models: what is kept, what is refused before PyTorch sees it, and the same scores in a process apart."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.training.conftest import make_rows

import tidemill as tm
from tidemill.adapters.torch import archive
from tidemill.adapters.torch.serving import open_reader
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.serving.embedded import OnnxRuntime
from tidemill.training import score
from tidemill.training.package import pack_model

SYMBOL = "Symbol('s77', positive=True, integer=True)"
GRAPH: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "nodes": [{"target": "torch.ops.aten.sigmoid.default", "inputs": []}, {"target": "_operator.mul", "inputs": []}],
            "tensor_values": {"x": {"sizes": [{"as_expr": {"expr_str": "s77", "hint": {"as_int": 4}}}, {"as_int": 3}]}},
        }
    },
    "guards_code": [],
}


def packed(graph: Any = GRAPH, **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("archive/models/model.json", json.dumps(graph))
        made.writestr("archive/data/weights/weight_0", b"1234")
        made.writestr("archive/data/weights/model_weights_config.json", b'{"config": {"w": {"use_pickle": false}}}')
        made.writestr("archive/data/sample_inputs/model.pt", b"")
        for name, body in more.items():
            made.writestr(f"archive/{name}", body)
    return out.getvalue()


def changed(change: Callable[[Any], Any]) -> bytes:
    graph = json.loads(json.dumps(GRAPH))
    change(graph)
    return packed(graph)


def step(name: str) -> bytes:
    return changed(lambda g: g["graph_module"]["graph"]["nodes"].append({"target": name, "inputs": []}))


def shape(text: str) -> bytes:
    return changed(lambda g: g["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].append({"as_expr": {"expr_str": text}}))


def test_a_graph_of_known_operators_and_its_numbers_are_let_through() -> None:
    archive.check(packed())
    for text in (
        "s0",
        "u12",
        "s77 + 1",
        "Max(1, s0*2)",
        "FloorDiv(s0, 2)",
        "(s0 - 1)//2",
        "Eq(Mod(s77, 8), 0)",
        "zuf0",
        SYMBOL,
        f"Add(Mul(Integer(2), {SYMBOL}), Integer(-1))",
    ):
        archive.check(shape(text))
    for name in ("torch.ops.aten.linear.default", "torch.ops.prims.convert_element_type.default", "torch.sym_max", "math.ceil"):
        archive.check(step(name))


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        (packed(**{"data.pkl": b"."}), "holds 'archive/data.pkl'"),
        (packed(**{"code/__torch__.py": b"import os"}), "TorchScript and pickles are not read"),
        (packed(**{"data/constants/custom_obj_0": b"."}), "holds 'archive/data/constants/custom_obj_0'"),
        (packed(**{"models/other.json": b"{}"}), "holds 'archive/models/other.json'"),
        (packed(**{"data/constants/model_constants_config.json": b'{"config": {"c": {"use_pickle": true}}}'}), "kept as pickles"),
        (step("torch.os.system"), "calls 'torch.os.system'"),
        (step("torch.ops.aten.from_file.default"), "from_file"),
        (step("_operator.methodcaller"), "calls '_operator.methodcaller'"),
        (step("torch.ops.aten.add.Tensor;os"), "calls"),
        (step("builtins.eval"), "calls 'builtins.eval'"),
        (shape("__import__('os').system('true')"), "no arithmetic of sizes"),
        (shape("s0.__class__"), "no arithmetic of sizes"),
        (shape("eval(1)"), "no arithmetic of sizes"),
        (shape("Symbol('s77').name"), "no arithmetic of sizes"),
        (shape("Symbol('__import__', real=exit(1))"), "no arithmetic of sizes"),
        (shape("(1).real"), "no arithmetic of sizes"),
        (changed(lambda g: g.update(guards_code=["print(1)"])), "guards, which are Python"),
        (changed(lambda g: g["graph_module"]["graph"]["nodes"].append({"as_custom_obj": {}})), "objects of its own classes"),
    ],
)
def test_whatever_could_run_is_refused_and_not_executed(native: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        archive.check(native)


@pytest.mark.parametrize("native", [b"no archive", b"", packed()[:-30], packed([]).replace(b"[]", b"[1")])
def test_other_bytes_are_no_archive(native: bytes) -> None:
    with pytest.raises(InvalidError, match=r"no archive of torch\.export"):
        archive.check(native)


def test_examples_are_a_pickle(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(packed())) as read, zipfile.ZipFile(tmp_path / "a", "w") as made:
        for name in read.namelist():
            made.writestr(name, b"x" if name.endswith("model.pt") else read.read(name))
    with pytest.raises(RefusedError, match="example inputs"):
        archive.check((tmp_path / "a").read_bytes())


class TestWithPyTorch:
    """What needs the library."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        self.torch: Any = pytest.importorskip("torch")
        self.rows = make_rows(200)
        self.x, _y = tm.encode(self.rows)

    def net(self, width: int = 4, outputs: int = 1) -> Any:
        torch = self.torch
        torch.manual_seed(7)

        module: Any = torch.nn.Module

        class Net(module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = torch.nn.Sequential(
                    torch.nn.Linear(width, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, outputs)
                )

            def forward(self, x: Any) -> Any:
                out = self.inner(torch.nan_to_num(x, nan=0.5))
                return torch.sigmoid(out) if outputs == 1 else torch.softmax(out, dim=1)

        return Net()

    def wanted(self, net: Any) -> Any:
        with self.torch.no_grad():
            return net.eval()(self.torch.tensor(self.x, dtype=self.torch.float32))[:, -1].double().numpy()

    @pytest.mark.parametrize("outputs", [1, 2])
    def test_scores_are_the_module_s_in_training_and_behind_the_server(self, tmp_path: Path, outputs: int) -> None:
        net = self.net(outputs=outputs)
        model = tm.torch_model(net, self.rows, {"epochs": 3})
        assert net.training, "the module itself is left as it was"
        assert (model.flavor, model.params["epochs"]) == ("torch", 3)
        np.testing.assert_allclose(score(model, self.x), self.wanted(net), rtol=1e-5)
        pack_model(model, tmp_path)
        assert b"tidemill_torch" in (tmp_path / "MLmodel").read_bytes()
        loaded = OnnxRuntime({"tidemill_torch": lambda: open_reader(ModelPolicy(timeout_s=60))}).load(tmp_path)
        assert (loaded.apart, loaded.platform) == (True, "torch")
        np.testing.assert_allclose(loaded.score(self.x), self.wanted(net), rtol=1e-5)
        np.testing.assert_allclose(loaded.score(self.x[:1]), self.wanted(net)[:1], rtol=1e-5)

    def test_an_equal_model_has_equal_bytes_without_this_machine_s_paths(self) -> None:
        one, other = (tm.torch_model(self.net(), self.rows).native for _ in range(2))
        assert one == other
        assert __file__.encode() not in one

    def test_a_program_that_is_exported_already(self) -> None:
        torch, net = self.torch, self.net().eval()
        rows = torch.export.Dim("rows", min=1)
        program = torch.export.export(net, (torch.zeros(4, 4),), dynamic_shapes=({0: rows},))
        np.testing.assert_allclose(score(tm.torch_model(program, self.rows), self.x), self.wanted(net), rtol=1e-5)
        fixed = torch.export.export(net, (torch.zeros(4, 4),))
        with pytest.raises(InvalidError, match="any number of rows"):
            tm.torch_model(fixed, self.rows)

    def test_what_does_not_fit_is_refused(self) -> None:
        torch = self.torch
        with pytest.raises(InvalidError, match="not object"):
            tm.torch_model(object(), self.rows)
        with pytest.raises(InvalidError, match=r"torch\.export cannot make a graph"):
            tm.torch_model(self.net(width=3), self.rows)
        program = torch.export.export(self.net(width=3), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("rows")},))
        with pytest.raises(InvalidError, match="takes 3 columns, the training set has 4"):
            tm.torch_model(program, self.rows)

    def test_torchscript_is_refused_by_what_it_holds(self) -> None:
        out = io.BytesIO()
        with pytest.warns((DeprecationWarning, FutureWarning), match="deprecated"):
            self.torch.jit.save(self.torch.jit.trace(self.net().eval(), self.torch.zeros(2, 4)), out)
        with pytest.raises(RefusedError, match="TorchScript and pickles are not read"):
            archive.check(out.getvalue())

    def test_an_interpreter_without_pytorch_is_named(self, tmp_path: Path) -> None:
        model = tm.torch_model(self.net(), self.rows)
        pack_model(model, tmp_path)
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "torch.py").write_text("raise ImportError('not here')")
        bare = tmp_path / "none" / "python"
        bare.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "none"} exec {sys.executable} "$@"\n')
        bare.chmod(0o755)
        with pytest.raises(RefusedError, match=r"no PyTorch: pip install 'tidemill\[torch\]', or name one .* models\.python"):
            OnnxRuntime({"tidemill_torch": lambda: open_reader(ModelPolicy(python=str(bare)))}).load(tmp_path)

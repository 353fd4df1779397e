"""Models of PyTorch out of a training step."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tidemill.adapters.torch import archive
from tidemill.adapters.torch.calls import caller
from tidemill.core.errors import InvalidError
from tidemill.training import provenance
from tidemill.training.aside import Aside
from tidemill.training.ports import Matrix, Model, Packed, TrainingSet

_ASIDE = Aside(lambda model, allowed: caller(model.native, allowed))
_OF_THIS_MACHINE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def torch_model(net: Any, rows: TrainingSet, params: Mapping[str, Any] | None = None) -> Model:
    """A `Model` of a trained `torch.nn.Module`, or of what `torch.export.export` made of one.

    Args:
        net: takes a tensor [rows, features], the columns of `encode(rows)` with nulls as NaN, in the dtype of its parameters; gives one score a row,
            or class probabilities, the last column of which is the score. It is exported on the CPU, as it is after `eval()`.
        rows: what it was fitted on.
        params: what to remember about how.

    Raises:
        InvalidError: PyTorch cannot export it, says why; or it takes another number of columns.
        RefusedError: the graph has steps or numbers that a server would not run; names the first.
    """
    program = net if isinstance(net, torch.export.ExportedProgram) else _exported(net, len(rows.features))
    _check(program, len(rows.features))
    native = _saved(program)
    archive.check(native)
    kept = {"torch_version": torch.__version__, **(params or {})}
    return Model("torch", native, rows.features, dict(rows.categories), kept, rows.until_us, provenance(rows))


def _check(program: Any, width: int) -> None:
    names = program.graph_signature.user_inputs
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 2 or isinstance(shapes[0][0], int):
        raise InvalidError(
            "the program takes one tensor [rows, features] of any number of rows: export it with dynamic_shapes=({0: Dim('rows')},)"
        )
    if shapes[0][1] != width:
        raise InvalidError(f"the program takes {shapes[0][1]} columns, the training set has {width}")


def _exported(net: Any, width: int) -> Any:
    if not isinstance(net, torch.nn.Module):
        raise InvalidError(f"torch_model takes a torch.nn.Module or an ExportedProgram, not {type(net).__name__}")
    still = copy.deepcopy(net).cpu().eval()
    dtype = next((p.dtype for p in still.parameters() if p.is_floating_point()), torch.float32)
    try:
        return torch.export.export(still, (torch.zeros(4, width, dtype=dtype),), dynamic_shapes=({0: torch.export.Dim("rows", min=1)},))
    except Exception as error:
        told = str(error).strip().splitlines()
        raise InvalidError(f"torch.export cannot make a graph of this module: {told[0][:300] if told else error!r}") from error


def _saved(program: Any) -> bytes:
    """The archive without what is Python or of this machine: examples, guards, and where in the source each step comes from."""
    program = copy.copy(program)
    program._example_inputs = None
    program._guards_code = []
    for node in program.graph.nodes:
        for name in _OF_THIS_MACHINE:
            node.meta.pop(name, None)
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


class TorchFlavor:
    """The `Flavor` of PyTorch, scored in a process apart as when it is served."""

    native = archive.NATIVE

    def score(self, model: Model, x: Matrix) -> npt.NDArray[np.float64]:
        """See `Flavor.score`. Raises `InvalidError` with PyTorch's own words."""
        return _ASIDE.score(model, x)

    def pack(self, model: Model, example: Matrix) -> Packed:
        """See `Flavor.pack`."""
        self.score(model, example)
        return Packed({self.native: model.native}, {archive.FLAVOR: {"data": self.native}}, ("torch", "numpy"))

"""Scores columns by an exported program. Called by `serving.apart.worker`, whose third argument is the folder of model.pt2; it is read once, at start."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("this interpreter has no PyTorch: pip install 'tidemill[torch]', or name one that has it by models.python") from error


class Program:
    """An exported program, ready to be asked."""

    def __init__(self, path: Path) -> None:
        torch.set_num_threads(1)
        program = torch.export.load(path)
        self._ask = program.module()
        [name] = program.graph_signature.user_inputs
        asked = next(node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
        self._dtype, self._width = asked.dtype, asked.shape[1]

    def scores(self, columns: Any) -> Any:
        """One score a row: the only output column, or the last of class probabilities."""
        x = np.column_stack(list(columns.values()))
        if x.shape[1] != self._width:
            raise ValueError(f"the program takes {self._width} columns, and there are {x.shape[1]}")
        with torch.no_grad():
            out = self._ask(torch.from_numpy(x).to(self._dtype)).double().numpy()
        return out if out.ndim == 1 else out[:, -1]


_PROGRAM = Program(Path(sys.argv[3]) / "model.pt2")


def score(columns: Any) -> Any:
    """Scores (n,) for columns in the model's order, nulls NaN."""
    return _PROGRAM.scores(columns)

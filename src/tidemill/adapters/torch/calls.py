"""Matrices of coded inputs, scored by a program in processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from tidemill.adapters.torch import archive
from tidemill.core.policy import ModelPolicy
from tidemill.serving.apart import Pool

Matrix = npt.NDArray[np.float64]
_ASIDE = Path(__file__).with_name("aside")


def caller(native: bytes, policy: ModelPolicy) -> Callable[[Matrix], Matrix]:
    """What scores matrices (n, features) by the program of these bytes. Raises what `archive.check` raises."""
    archive.check(native)
    kept_in = TemporaryDirectory(prefix="tidemill-torch-")  # goes when what is returned goes
    (Path(kept_in.name) / archive.NATIVE).write_bytes(native)
    files, target = Path(kept_in.name), "torch_scorer:score"
    pool = Pool(_ASIDE, target, files, python=policy.python, processes=policy.processes, timeout_s=policy.timeout_s)

    def score(x: Matrix, _kept: TemporaryDirectory[str] = kept_in) -> Matrix:
        return pool.call({str(i): x[:, i] for i in range(x.shape[1])}, len(x))

    return score

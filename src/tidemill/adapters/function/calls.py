"""Matrices of coded inputs, given to a function as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.adapters.function import kept
from tidemill.core.policy import ModelPolicy
from tidemill.serving.apart import Pool

Matrix = npt.NDArray[np.float64]


def caller(
    native: bytes, features: Sequence[str], categories: Mapping[str, Sequence[str]], policy: ModelPolicy
) -> Callable[[Matrix], Matrix]:
    """What scores matrices (n, features) by the function that these bytes name.

    Raises:
        InvalidError: other bytes.
        RefusedError: the function is not one of the project's.
    """
    kept_in = TemporaryDirectory(prefix="tidemill-function-")  # goes when what is returned goes
    target = kept.load(native, Path(kept_in.name))
    folder = kept.home(target, policy.project)
    pool = Pool(folder, target, Path(kept_in.name), python=policy.python, processes=policy.processes, timeout_s=policy.timeout_s)

    def score(x: Matrix, _kept: TemporaryDirectory[str] = kept_in) -> Matrix:
        columns: dict[str, Any] = {
            name: _texts(x[:, i], categories[name]) if name in categories else x[:, i] for i, name in enumerate(features)
        }
        return pool.call(columns, len(x))

    return score


def _texts(codes: Matrix, values: Sequence[str]) -> list[str | None]:
    known = [*values, None]
    return [known[int(code)] if code == code and 0 <= code < len(values) else None for code in codes]

"""What the loader of model artifacts trusts and allows. It belongs to whoever loads; an artifact has no say in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """The loader's policy.

    Attributes:
        trusted_types: types, `package.module.Type`, that a scikit-learn model may hold beside those of scikit-learn, NumPy and SciPy.
        project: the folder whose functions may be models; none when empty.
        python: the interpreter that runs models apart from the server; this one when empty.
        processes: how many such processes for each model.
        timeout_s: how long such a model may take for one call before its process is replaced.
    """

    trusted_types: tuple[str, ...] = ()
    project: str = ""
    python: str = ""
    processes: int = 1
    timeout_s: float = 10.0

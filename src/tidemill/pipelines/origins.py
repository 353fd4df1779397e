"""Whose code is it: the project's, Tidemill's, an installed package's or the standard library's?"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal

Origin = Literal["project", "tidemill", "package", "standard"]
_HERE = str(Path(__file__).resolve().parents[1]) + os.sep
_STANDARD = tuple({os.path.realpath(sysconfig.get_paths()[k]) + os.sep for k in ("stdlib", "platstdlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@cache
def of_file(path: str) -> Origin:
    """The origin of a source file."""
    real = os.path.realpath(path)
    if real.startswith(_HERE):
        return "tidemill"
    if any(part in real for part in _INSTALLED):
        return "package"
    return "standard" if real.startswith(_STANDARD) or path.startswith("<frozen") else "project"


def of_module(name: str | None) -> Origin:
    """The origin of a module by name; one without a file is the standard library's, `__main__` the project's."""
    if not name:
        return "standard"
    if name == "tidemill" or name.startswith("tidemill."):
        return "tidemill"
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if path:
        return of_file(path)
    if name == "__main__":
        return "project"
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return "standard"
    return (
        "package" if package_version(top) else "project" if isinstance(module, ModuleType) and hasattr(module, "__path__") else "standard"
    )


def short_path(path: str) -> str:
    """A file's path below its topmost package, so that it says the same wherever the project lies."""
    folder = Path(path).parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return Path(path).relative_to(folder).as_posix()


@cache
def package_version(module: str) -> tuple[str, str] | None:
    """Distribution and version that a top-level module comes from, None when nothing installed has it."""
    top = module.partition(".")[0]
    try:
        return top, metadata.version(top)
    except metadata.PackageNotFoundError:
        names = _distributions().get(top)
        return (names[0], metadata.version(names[0])) if names else None


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@cache
def _version() -> str:
    return str(getattr(sys.modules["tidemill"], "__version__", ""))


@cache
def stage_version(module: str) -> tuple[str, str]:
    """A name and a version for the part of Tidemill that a module belongs to.

    An installed Tidemill is told by its version alone; one that runs from a checkout also by the sources of the stage's folder.
    """
    parts = module.split(".")
    if len(parts) == 1 or any(part in _HERE for part in _INSTALLED):
        return "tidemill", _version()
    folder = Path(_HERE) / parts[1]
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(_HERE).as_posix().encode() + b"\0" + file.read_bytes())
    return f"tidemill.{parts[1]}", f"{_version()}+{digest.hexdigest()[:12]}"

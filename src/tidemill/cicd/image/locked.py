"""Which distributions a project runs with, and their exact versions, as they are installed here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tidemill.core.errors import NotFoundError


def closure(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """These distributions and all that they need here, by canonical name. Raises `NotFoundError` for one that is not installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(str(canonicalize_name(Requirement(name).name)), frozenset(Requirement(name).extras)) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise NotFoundError(f"{name!r} is needed and not installed; pip install {name}, then build again") from error
        for line in found[name].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((str(canonicalize_name(wanted.name)), frozenset(wanted.extras)))
    return dict(sorted(found.items()))


def needs(found: metadata.Distribution, among: Iterable[str]) -> list[str]:
    """Which of `among` a distribution needs itself."""
    names = {str(canonicalize_name(Requirement(line).name)) for line in found.requires or ()}
    return sorted(names & set(among))


def imported(files: Sequence[Path]) -> list[str]:
    """The installed distributions whose modules these files import."""
    owners = metadata.packages_distributions()
    modules: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    used = {name for module in modules - set(sys.stdlib_module_names) for name in owners.get(module, ())}
    return sorted({str(canonicalize_name(name)) for name in used} - {"tidemill"})

"""Writing a project folder from the shipped files."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from tidemill.core.errors import ConflictError, InvalidError
from tidemill.platform.scaffold.orders import write_orders

FILES = {
    "definitions.py": "definitions.py.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    "conf/config.yaml": "conf/config.yaml.txt",
    "conf/retraining/eager.yaml": "conf/eager.yaml.txt",
    "tests/test_definitions.py": "tests/test_definitions.py.txt",
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def write_project(folder: Path) -> list[str]:
    """Write a project to the new or empty `folder`, named by it.

    Returns:
        The files written, relative to `folder`, data last.

    Raises:
        InvalidError: the folder's name cannot name a service.
        ConflictError: something is in the folder already; nothing was written.
    """
    name = folder.name
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"{name!r} cannot name a project: use lower case letters, digits, '_' and '-', starting with a letter, 63 at most"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is there and not empty; choose another name, or empty it first")
    shipped = files("tidemill.platform.scaffold") / "files"
    written = []
    for target, source in FILES.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((shipped / source).read_text(encoding="utf-8").replace("{{name}}", name), encoding="utf-8")
        written.append(target)
    return written + [p.relative_to(folder).as_posix() for p in write_orders(folder / "data")]

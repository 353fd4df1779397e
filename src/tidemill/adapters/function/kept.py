"""What a model that is a function consists of: its name, and files that it reads."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tidemill.core.errors import InvalidError, RefusedError

NATIVE = "function.zip"
FLAVOR = "tidemill_function"
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def dump(target: str, files: Mapping[str, bytes]) -> bytes:
    """The function's name and its files as one archive; equal ones give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        parts = {"function.json": json.dumps({"function": target}).encode()}
        for name, body in {**parts, **{f"files/{name}": files[name] for name in sorted(files)}}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def load(native: bytes, into: Path) -> str:
    """Write the files below `into`; the function's name. Raises `InvalidError` for other bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(native)) as archive:
            target = str(json.loads(archive.read("function.json"))["function"])
            bodies = {name.removeprefix("files/"): archive.read(name) for name in archive.namelist() if name.startswith("files/")}
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InvalidError(f"these bytes are no function that Tidemill has kept: {error}") from error
    checked(target)
    for name, body in bodies.items():
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise InvalidError(f"the file {name!r} of a model lies outside of it")
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return target


def checked(target: str) -> str:
    """`module:function`, well spelt. Raises `InvalidError`."""
    if not _TARGET.fullmatch(target):
        raise InvalidError(f"{target!r} names no function; write module:function, for example rules:predict")
    return target


def home(target: str, project: str) -> Path:
    """The project's folder, if the function's module lies in it. Raises `RefusedError`: no other code is ever called."""
    module = target.partition(":")[0]
    path = Path(project, *module.split("."))
    if not project or not (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
        raise RefusedError(
            f"the model is the function {target!r}, and there is no module {module} in the project{f' at {project}' if project else ''}; "
            "only functions of the project are called"
        )
    return Path(project)

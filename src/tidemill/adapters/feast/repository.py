"""What a Feast repository defines, as values: read by running `describe.py` with the Python that has Feast."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec

from tidemill.core.errors import InvalidError, NotFoundError, UnavailableError

_DESCRIBE = Path(__file__).with_name("describe.py")
_PATIENCE_S = 600


class Named(msgspec.Struct, kw_only=True):
    """What every Feast object has. `kind` is its class."""

    name: str
    kind: str
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Field(msgspec.Struct):
    """A column with Feast's type, such as `Int64` or `Array(String)`."""

    name: str
    type: str


class Entity(Named, kw_only=True):
    """An entity; `key` is its join key."""

    key: str
    type: str


class Source(Named, kw_only=True):
    """A data source; `batch` names the one behind a push source."""

    path: str
    format: str
    event_time: str
    known_time: str
    renamed: dict[str, str]
    batch: str


class View(Named, kw_only=True):
    """A feature view. `ttl_s` 0 is forever; `stream` names the push or stream source."""

    entities: list[str]
    keys: list[str]
    ttl_s: float
    source: str
    stream: str
    transformed: bool
    online: bool
    features: list[Field]


class Projection(msgspec.Struct):
    """Features of one view as a service or an on-demand view names them."""

    name: str
    alias: str
    features: list[str]
    keys_renamed: dict[str, str]
    version: int


class OnDemandView(Named, kw_only=True):
    """An on-demand feature view; `function` is defined in `file`."""

    mode: str
    singleton: bool
    stored: bool
    aggregated: bool
    function: str
    file: str
    features: list[Field]
    views: list[Projection]
    request: list[Field]


class Service(Named, kw_only=True):
    """A feature service."""

    views: list[Projection]


class Other(msgspec.Struct):
    """Something that Tidemill has no word for."""

    kind: str
    name: str


class Repository(msgspec.Struct):
    """Everything that a repository defines."""

    feast: str
    project: str
    entities: list[Entity]
    sources: list[Source]
    views: list[View]
    on_demand: list[OnDemandView]
    services: list[Service]
    others: list[Other]


def read_repository(folder: Path, python: str = "") -> Repository:
    """Read a Feast repository.

    Args:
        folder: the one with `feature_store.yaml`.
        python: the interpreter that has Feast; empty: that of `.venv` in the folder or above, of the `feast` command, or this one.

    Raises:
        NotFoundError: there is no repository, or no Python with Feast.
        InvalidError: Feast cannot read it; says what Feast said.
        UnavailableError: it does not end within ten minutes.
    """
    folder = folder.resolve()
    if not (folder / "feature_store.yaml").is_file():
        raise NotFoundError(f"{folder} has no feature_store.yaml; name the folder of the Feast repository")
    interpreter = python or _python(folder)
    quiet = {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [interpreter, str(_DESCRIBE), str(folder)], capture_output=True, check=False, timeout=_PATIENCE_S, env=quiet, cwd=folder
        )
    except OSError as error:
        raise NotFoundError(f"{interpreter} cannot be run: {error}; --python names the Python that has Feast") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"reading {folder} did not end within {_PATIENCE_S // 60} minutes; does one of its files wait?") from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        hint = f"; --python names another Python than {interpreter}" if "No module named 'feast'" in "".join(told[-1:]) else ""
        raise InvalidError(f"Feast cannot read {folder}: {told[-1] if told else 'it ended without a word'}{hint}")
    return msgspec.json.decode(done.stdout, type=Repository)


def _python(folder: Path) -> str:
    """The Python that most likely has Feast."""
    for above in (folder, *folder.parents):
        if (found := above / ".venv" / "bin" / "python").is_file():
            return str(found)
    command = shutil.which("feast")
    if command and (beside := Path(command).resolve().with_name("python")).is_file():
        return str(beside)
    if find_spec("feast"):
        return sys.executable
    raise NotFoundError("no Python with Feast was found; name the one that your repository uses with --python")
